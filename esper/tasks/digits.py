"""Handwritten digits that come with scikit-learn: nothing is downloaded."""

import numpy as np
import torch
from torch import Tensor

from esper.tasks.bundled import read_bundled
from esper.tasks.distortion import distort
from esper.tasks.settings import DIGITS_PIXELS, TASKS, DigitsConfig
from esper.tasks.splits import stratified_splits
from esper.tasks.task import Task, named_generator

BUNDLED_FILE = "digits.csv.gz"
COUNT = 1797
FULL_INK = 16.0


def load_digits() -> tuple[Tensor, Tensor]:
    """Images [1797, 1, 8, 8] float32 from 0 (paper) to 1 (ink), labels [1797] int64."""
    rows = read_bundled("digits", BUNDLED_FILE, (COUNT, DIGITS_PIXELS**2 + 1), np.int64)
    images = torch.from_numpy(rows[:, :-1].astype(np.float32)).view(-1, 1, DIGITS_PIXELS, DIGITS_PIXELS) / FULL_INK
    return images, torch.from_numpy(rows[:, -1].copy())


@TASKS.register("digits", DigitsConfig)
def build_digits(settings: DigitsConfig, device: torch.device, dtype: torch.dtype, split_seed: int) -> Task:
    """The digits as a task: upsampled and distorted anew each epoch, or plain 8x8 with `distortion=none`."""
    images, labels = load_digits()
    splits = stratified_splits(
        labels, settings.val_fraction, settings.test_fraction, named_generator(split_seed, "digits/splits")
    )
    images, labels = images.to(device), labels.to(device)
    train_x, train_y = images[splits.train], labels[splits.train]
    strength = settings.strength()
    if strength is None:
        size, copies = DIGITS_PIXELS, 1
        spread, mean = torch.std_mean(train_x)
        train_x = train_x.sub(mean).div(spread).to(dtype)

        def evaluation(index: Tensor, stream: str) -> Tensor:
            return images[index].sub(mean).div(spread).to(dtype)

        draw = None
    else:
        size, copies = settings.image_size, settings.val_copies
        sample = distort(train_x, strength, size, named_generator(split_seed, "digits/statistics"))
        spread, mean = torch.std_mean(sample)

        def augment(source: Tensor, generator: torch.Generator) -> Tensor:
            return distort(source, strength, size, generator).sub_(mean).div_(spread).to(dtype)

        def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
            return augment(train_x, generator), train_y

        def evaluation(index: Tensor, stream: str) -> Tensor:
            return augment(images[index].repeat(copies, 1, 1, 1), named_generator(split_seed, stream))

    return Task(
        name="digits",
        num_outputs=10,
        input_shape=(1, size, size),
        train_x=train_x,
        train_y=train_y,
        val_x=evaluation(splits.val, "digits/validation"),
        val_y=labels[splits.val].repeat(copies),
        test_x=evaluation(splits.test, "digits/test"),
        test_y=labels[splits.test].repeat(copies),
        draw=draw,
    )

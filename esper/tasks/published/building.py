"""A published image set as a task: its test images are the test split, and a part of the others validates."""

import torch
from torch import Tensor

from esper.tasks.distortion import shift_and_mirror
from esper.tasks.settings import PublishedConfig
from esper.tasks.splits import stratified_splits
from esper.tasks.standardizing import standard_of
from esper.tasks.task import Task, named_generator

Labelled = tuple[Tensor, Tensor]  # images [N, C, H, W] uint8, labels [N] int64


def build_published(
    settings: PublishedConfig,
    train: Labelled,
    test: Labelled,
    num_classes: int,
    device: torch.device,
    dtype: torch.dtype,
    split_seed: int,
    is_mirrored: bool,
) -> Task:
    """The task: training images distorted anew each epoch, evaluation images as published.

    is_mirrored: whether what an image shows is the same in a mirror.
    """
    (images, labels), (test_images, test_labels) = train, test
    splits = stratified_splits(
        labels, settings.val_fraction, 0.0, named_generator(split_seed, f"{settings.name}/splits")
    )
    train_x, train_y = images[splits.train], labels[splits.train].to(device)
    standard = standard_of(train_x)

    def standardise(source: Tensor) -> Tensor:
        return standard.apply(source.to(device, dtype))

    distorted = settings.distortion != "none"
    train_x = train_x.to(device) if distorted else standardise(train_x)

    def draw(generator: torch.Generator) -> Labelled:
        return standardise(shift_and_mirror(train_x, settings.shift_pixels, generator, is_mirrored)), train_y

    return Task(
        name=settings.name,
        num_outputs=num_classes,
        input_shape=tuple(images.shape[1:]),
        train_x=train_x,
        train_y=train_y,
        val_x=standardise(images[splits.val]),
        val_y=labels[splits.val].to(device),
        test_x=standardise(test_images),
        test_y=test_labels.to(device),
        draw=draw if distorted else None,
    )

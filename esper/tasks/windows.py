"""Text as windows of bytes, and what follows each byte."""

import numpy as np
import torch
from torch import Tensor

from esper.errors import TaskError
from esper.tasks.settings import BytesConfig
from esper.tasks.task import Task

VOCAB_SIZE = 256


def build_bytes_task(settings: BytesConfig, splits: tuple[bytes, bytes, bytes], device: torch.device) -> Task:
    """A task on the texts of training, validation and test split.

    Each epoch draws windows anywhere in the training text; all other windows follow each other without overlap.

    Raises:
        TaskError: a text is shorter than one window and the byte after it.
    """
    length = settings.block_size
    for key, text in zip(("training", "validation", "test"), splits, strict=True):
        if len(text) <= length:
            raise TaskError(
                f"task={settings.name}: {len(text)} bytes to make a {key} split of, and a window takes "
                f"task.block_size + 1 = {length + 1}; a longer text or a smaller task.block_size will do."
            )
    train, val, test = (torch.from_numpy(np.frombuffer(text, np.uint8).copy()).to(device) for text in splits)

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        starts = torch.randint(
            len(train) - length, (settings.epoch_windows,), generator=generator, device=generator.device
        )
        return _windows(train, starts.to(device), length)

    def every(text: Tensor) -> tuple[Tensor, Tensor]:
        return _windows(text, torch.arange(0, len(text) - length, length, device=device), length)

    (train_x, train_y), (val_x, val_y), (test_x, test_y) = every(train), every(val), every(test)
    return Task(
        name=settings.name,
        topology=settings.topology,
        num_classes=VOCAB_SIZE,
        input_shape=(length,),
        train_x=train_x,
        train_y=train_y,
        val_x=val_x,
        val_y=val_y,
        test_x=test_x,
        test_y=test_y,
        draw=draw,
        epoch_size=settings.epoch_windows,
    )


def _windows(text: Tensor, starts: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """text [L] uint8, starts [N] -> bytes [N, T] and the byte after each [N, T], int64."""
    window = text[starts[:, None] + torch.arange(length + 1, device=text.device)].long()
    return window[:, :-1].contiguous(), window[:, 1:].contiguous()

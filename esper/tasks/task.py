"""A task: data on the device, split three ways, with its training images distorted anew each epoch."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from esper.errors import ConfigError
from esper.tasks.settings import TaskSettings

Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(slots=True)
class Task:
    """Images and labels of three disjoint splits, as tensors on one device.

    Inputs are standardised with the training split's mean and spread; labels are int64. Validation drives decisions,
    test is for the final figure alone. Where an evaluation split holds several distortions of each example they follow
    each other as whole sets: [all examples, all examples, ...].

    Shapes: val_x [V, C, H, W], val_y [V], test_x [T, C, H, W], test_y [T]; train_x [N, ...] is what `epoch_inputs`
    starts from, at the data's own size and range; train_y [N].
    """

    name: str
    topology: str
    num_classes: int
    input_shape: tuple[int, int, int]
    train_x: Tensor
    train_y: Tensor
    val_x: Tensor
    val_y: Tensor
    test_x: Tensor
    test_y: Tensor
    augment: Augment | None = None

    def epoch_inputs(self, epoch: int, generator: torch.Generator) -> Tensor:
        """This epoch's training inputs [N, C, H, W], in the order of `train_y`.

        They follow from the generator's state alone, whatever the epoch; without distortion it is the same tensor each
        time, not to be written to.
        """
        return self.train_x if self.augment is None else self.augment(self.train_x, generator)


Builder = Callable[[Any, torch.device, torch.dtype, int], Task]
_BUILDERS: dict[str, Builder] = {}


def register_task(name: str) -> Callable[[Builder], Builder]:
    """Make `task.name=name` build with the decorated function (settings, device, dtype, split_seed) -> Task."""

    def register(builder: Builder) -> Builder:
        _BUILDERS[name] = builder
        return builder

    return register


def build_task(
    settings: TaskSettings, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0
) -> Task:
    """Load, split and standardise the data that the settings name.

    Args:
        seed: the run's seed; it decides the splits only where `settings.split_seed` is None.

    Raises:
        ConfigError: no task has this name. TaskError: its data is missing, altered or unreadable.
    """
    builder = _BUILDERS.get(settings.name)
    if builder is None:
        raise ConfigError(f"task.name={settings.name!r}: expected one of {', '.join(sorted(_BUILDERS))}.")
    return builder(settings, torch.device(device), dtype, seed if settings.split_seed is None else settings.split_seed)


def named_generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator of its own for one purpose: different names never share a stream, whatever the seed."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

"""Train, validation and test: disjoint, stratified, drawn by a generator."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from esper.errors import TaskError
from esper.tasks.task import named_generator

SPLITS = {"train": "training", "val": "validation", "test": "test"}  # as keys have them, and as one says


@dataclass(frozen=True, slots=True)
class Splits:
    """Indices of the examples in each split, ascending, int64: train [N], val [V], test [T]."""

    train: Tensor
    val: Tensor
    test: Tensor


def stratified_splits(labels: Tensor, val_fraction: float, test_fraction: float, generator: torch.Generator) -> Splits:
    """Three disjoint splits that cover everything; each class's share of a split is right to within one example.

    Args:
        labels: [N] int64 on the CPU.
        val_fraction, test_fraction: shares of N, rounded to whole examples; the rest is for training.

    Raises:
        TaskError: a split would be empty.
    """
    count = len(labels)
    val_count, test_count = round(count * val_fraction), round(count * test_fraction)
    asked = ((val_fraction, val_count), (test_fraction, test_count), (1.0, count - val_count - test_count))
    if any(fraction > 0 and size < 1 for fraction, size in asked):
        raise TaskError(
            f"{count} examples leave an empty split at val_fraction={val_fraction:g}, test_fraction={test_fraction:g}; "
            "set task.val_fraction and task.test_fraction so that each split gets one."
        )
    shuffled = torch.randperm(count, generator=generator)
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    sizes = torch.bincount(labels)
    starts = torch.cumsum(sizes, 0) - sizes
    own = labels[by_class]
    # An example's place within its class, from 0 to 1: cutting at one place cuts every class in the same proportion.
    place = (torch.arange(count) - starts[own] + 0.5).double() / sizes[own]
    order = by_class[torch.argsort(place, stable=True)]
    val, test, train = order.split([val_count, test_count, count - val_count - test_count])
    return Splits(train=train.sort().values, val=val.sort().values, test=test.sort().values)


def split_off(classes: Tensor, val_fraction: float, test_fraction: float, seed: int, name: str) -> dict[str, Tensor]:
    """Indices of examples by split, ascending. Args: classes: [N] int64, each divided alike; name: of the task."""
    index = stratified_splits(classes, val_fraction, test_fraction, named_generator(seed, f"{name}/splits"))
    return {"train": index.train, "val": index.val, "test": index.test}


def split_note(name: str, counts: dict[str, int], missing: Sequence[str], split_seed: int) -> str:
    """How many examples each split of a task has, and which of them were taken from the training data."""
    sizes = ", ".join(f"{counts[key]:,} {word}" for key, word in SPLITS.items())
    kept = " and ".join(SPLITS[key] for key in missing)
    return f"task={name}: {sizes}; {kept} kept apart from the training data by split_seed={split_seed}"

"""A table of the user's own: numbers standardised, categories one-hot, what is missing flagged."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from esper.checks import did_you_mean, spelled
from esper.errors import TaskError
from esper.tasks.data import Data
from esper.tasks.labels import as_classes
from esper.tasks.own.columns import MISSING, read_columns
from esper.tasks.settings import TASKS, TableConfig
from esper.tasks.splits import split_off

MOST_CATEGORIES = 100

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TableColumn:
    """Values of one column, as they were read, and the numbers that they are; None where they are categories."""

    name: str
    values: NDArray[np.str_]
    missing: NDArray[np.bool_]
    numbers: Matrix | None


@TASKS.register("table", TableConfig)
def build_table(settings: TableConfig, split_seed: int) -> Data:
    """Data of the rows: vectors, by what the training rows say of each column."""
    path, key = str(settings.path), "task.target"
    columns = {name: parse(name, values) for name, values in read_columns(path).items()}
    for name, of_key in ((settings.target or "", key), *((name, "task.drop") for name in settings.drop)):
        if name not in columns:
            near = did_you_mean(name, columns)
            raise TaskError(f"{of_key}={name}: {path} has no such column{near}\n  columns: {spelled(list(columns))}")
    target = columns.pop(settings.target or "")
    inputs = [column for name, column in columns.items() if name not in settings.drop]
    if not inputs:
        raise TaskError(f"{path}: no column is left to predict {target.name} by")
    y = _targets(target, settings.loss == "cross_entropy", path)
    classes = torch.zeros(len(y), dtype=torch.int64)
    if settings.loss == "cross_entropy":
        classes = torch.from_numpy(as_classes({"train": y}, None, ())[0]["train"])
    fractions = (settings.val_fraction, settings.test_fraction)
    rows = split_off(classes, *fractions, split_seed, settings.name)
    x = np.concatenate([encode(column, rows["train"].numpy(), path) for column in inputs], axis=1)
    splits: dict[str, Any] = {key: (x[index.numpy()], y[index.numpy()]) for key, index in rows.items()}
    return Data(**splits, loss=settings.loss, layout="nf", standardize=False, kept_apart=("val", "test"))


def parse(name: str, values: Sequence[str]) -> TableColumn:
    """A column of text as it stands in a file."""
    texts = np.array([value.strip() for value in values])
    missing = np.array([text.lower() in MISSING for text in texts], bool)
    numbers = np.zeros(len(texts))
    try:
        numbers[~missing] = [_number(text) for text in texts[~missing]]
    except ValueError:
        return TableColumn(name, texts, missing, None)
    missing |= np.isnan(numbers)  # however it is written
    return TableColumn(name, texts, missing, np.where(missing, 0.0, numbers))


def _number(text: str) -> float:
    """Raises ValueError where it is none; 1_0 is one in Python alone."""
    if "_" in text:
        raise ValueError(text)
    return float(text)


def encode(column: TableColumn, train: NDArray[np.int64], path: str) -> Matrix:
    """Inputs [N, F] of one column: a number less its mean, over its spread; or a 1 for its category. A column of flags
    follows where a value is missing, which itself is 0.

    Args: train: rows whose values decide mean, spread and categories.
    """
    known = np.zeros(len(column.values), bool)
    known[train] = True
    known &= ~column.missing
    flags = column.missing[:, None].astype(np.float64) if column.missing.any() else np.empty((len(known), 0))
    if column.numbers is not None:
        if not np.isfinite(column.numbers).all():
            row = int(np.nonzero(~np.isfinite(column.numbers))[0][0])
            value = spelled(column.values[row])
            raise TaskError(f"{path}: row {row + 1}, column {column.name}: {value} is beyond all bounds")
        own = column.numbers[known]
        with np.errstate(over="ignore"):  # what comes of it is looked at as inputs are
            mean, spread = (float(own.mean()), float(own.std())) if len(own) else (0.0, 0.0)
        standard = (column.numbers - mean) / (spread if spread > 0 and math.isfinite(spread) else 1.0)
        standard[column.missing] = 0.0
        return np.concatenate([standard[:, None], flags], axis=1)
    categories = np.unique(column.values[known])
    if len(categories) > MOST_CATEGORIES:
        raise TaskError(
            f"{path}: column {column.name} has {len(categories):,} different texts, at most {MOST_CATEGORIES} are "
            f"categories\n  to leave it out: 'task.drop=[{column.name}]'"
        )
    return np.concatenate([(column.values[:, None] == categories).astype(np.float64), flags], axis=1)


def _targets(target: TableColumn, is_class: bool, path: str) -> NDArray[np.generic]:
    if target.missing.any():
        row = int(np.nonzero(target.missing)[0][0])
        raise TaskError(f"{path}: row {row + 1} has no {target.name}, which is to be predicted; such rows must go")
    if target.numbers is not None:
        return target.numbers
    if not is_class:
        row = next(place for place, text in enumerate(target.values) if parse("", [text]).numbers is None)
        value = spelled(target.values[row])
        raise TaskError(f"{path}: row {row + 1}, column {target.name}: {value} is no number to predict")
    return target.values

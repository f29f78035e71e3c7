"""Labels of the user's own as classes 0 to K-1, or as numbers to predict."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esper.checks import did_you_mean, spelled
from esper.errors import TaskError

Array = NDArray[Any]
Splits = Mapping[str, Array]

_EXACT = 2**53  # up to which each whole number is a float64
NUMBERS_HINT = "  a number to predict asks for another loss, such as mse"


def as_classes(
    splits: Splits, num_outputs: int | None, class_names: Sequence[str]
) -> tuple[dict[str, Array], int, tuple[str, ...]]:
    """Labels as int64 from 0 on, how many classes there are, and their names ("" where nobody named them).

    Whole numbers from 0 on without a gap stay what they are. Others, and text, become classes in ascending order, which
    keep them as their names.

    Args: splits: by name, "train" among them: labels [N]. num_outputs: classes, None: those that occur; class_names: of
        all of them, in order.

    Raises: TaskError where they are no classes, or training lacks one that another split has.
    """
    splits = {name: _plain(name, labels) for name, labels in splits.items()}
    kinds = {labels.dtype.kind for labels in splits.values()}
    if len(kinds) > 1:
        raise TaskError(f"labels are text in one split and numbers in another: {', '.join(splits)}")
    names, is_text = tuple(class_names), kinds == {"U"}
    known = present = np.unique(splits["train"])
    if names or (num_outputs and not is_text):  # given beforehand: one that no example has is no mistake
        known = np.array(names) if is_text else np.arange(num_outputs or len(names))
    _check_known(splits, known, is_given=known is not present)
    count = num_outputs or len(known)
    if count < len(known):
        raise TaskError(f"num_outputs={num_outputs}: there are {len(known)} classes, {spelled(list(known))}")
    if len(present) < 2:
        raise TaskError(f"all training labels are {present[0]}; expected two classes or more")
    if count > len(splits["train"]):
        raise TaskError(
            f"{count} classes, and {len(splits['train'])} training examples; expected one of each\n{NUMBERS_HINT}"
        )
    order = np.argsort(known, kind="stable")
    found = {
        name: order[np.searchsorted(known, labels, sorter=order)].astype(np.int64) for name, labels in splits.items()
    }
    is_plain = not is_text and np.array_equal(known, np.arange(len(known)))
    return found, count, names or (() if is_plain else tuple(map(str, known)))


def as_numbers(splits: Splits, num_outputs: int | None) -> tuple[dict[str, Array], int]:
    """Targets as float64 [N, K], and K. Raises TaskError where they are no finite numbers."""
    found = {}
    for name, targets in splits.items():
        if targets.dtype.kind not in "iufb":
            raise TaskError(f"{name} y: holds {_kind(targets)}; a number to predict is a number")
        if targets.ndim > 2 or targets.size == 0:
            raise TaskError(f"{name} y: {list(targets.shape)}; numbers to predict are [N] or [N, K]")
        targets = targets.reshape(len(targets), -1).astype(np.float64)
        if not np.isfinite(targets).all():
            example = int(np.nonzero(~np.isfinite(targets).all(1))[0][0])
            raise TaskError(f"{name} y: example {example} is no finite number")
        found[name] = targets
    widths = {targets.shape[1] for targets in found.values()} | ({num_outputs} if num_outputs else set())
    if len(widths) > 1:
        raise TaskError(f"targets and outputs are not equally many: {', '.join(map(str, sorted(widths)))}")
    return found, widths.pop()


def _plain(name: str, labels: Array) -> Array:
    """Labels [N] as int64, whole numbers that are floats among them, or as text. Raises TaskError for all else."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        hint = "; of one-hot rows: y.argmax(1)" if labels.ndim == 2 else ""
        raise TaskError(f"{name} y: {list(labels.shape)}; expected a label for each example, [N]{hint}\n{NUMBERS_HINT}")
    if labels.dtype.kind == "S":
        return np.char.decode(labels, "utf-8", "replace")
    if labels.dtype.kind == "f" and (labels == np.round(labels)).all() and np.abs(labels).max() < _EXACT:
        return labels.astype(np.int64)
    if labels.dtype.kind in "biu":
        if labels.dtype.kind == "u" and labels.max() > np.iinfo(np.int64).max:
            raise TaskError(f"{name} y: label {labels.max()} is beyond all bounds")
        return labels.astype(np.int64)
    if labels.dtype.kind != "U":
        raise TaskError(f"{name} y: holds {_kind(labels)}; classes are whole numbers or text\n{NUMBERS_HINT}")
    return labels


def _check_known(splits: Splits, known: Array, is_given: bool) -> None:
    for name, labels in splits.items():
        strange = labels[~np.isin(labels, known)]
        if not len(strange):
            continue
        label = spelled(strange[0])
        if not is_given:
            raise TaskError(f"{name} y: label {label} has no training example\n{NUMBERS_HINT}")
        if known.dtype.kind == "U":
            raise TaskError(
                f"{name} y: label {label}: expected one of {spelled(list(known))}{did_you_mean(label, known)}"
            )
        raise TaskError(f"{name} y: label {label}: expected 0 to {len(known) - 1}")


def _kind(labels: Array) -> str:
    return {"O": "objects of several kinds", "M": "dates", "c": "complex numbers"}.get(
        labels.dtype.kind, f"{labels.dtype} values"
    )

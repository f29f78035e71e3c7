"""Examples of the user's own, in whatever they come, as one array of inputs and one of labels.

They come as a pair of tensors or arrays, as a torch Dataset of pairs, or as a Hugging Face dataset; neither library of
the latter is imported, since whoever has such an object has loaded it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from esper.checks import spelled
from esper.errors import EsperError, TaskError, first_line

LABEL_COLUMNS = ("label", "labels", "target", "y", "fine_label")
INPUT_COLUMNS = ("image", "img", "x", "input", "inputs", "features", "pixel_values", "data")
_EXPECTED = "expected (x, y), a torch Dataset or a Hugging Face dataset"

Array = NDArray[Any]
Examples = tuple[Array, Array]


def read_examples(source: Any, what: str) -> Examples:
    """Inputs [N, ...] and labels [N, ...].

    Args: source: what a user gave. what: it is, for messages: "train".

    Raises: TaskError where it is something else, is empty, or its examples are of unlike sizes.
    """
    if isinstance(source, tuple | list) and len(source) == 2:
        x, y = (_array(values, f"{what} {name}") for values, name in zip(source, "xy", strict=True))
    elif isinstance(source, DataLoader):
        raise TaskError(f"{what}: a DataLoader; {_EXPECTED}, as in train=loader.dataset")
    elif is_hugging_face(source):
        x, y = _stacked(_pairs_of_rows(source, what), len(source), what)
    elif isinstance(source, Dataset) and not isinstance(source, IterableDataset):
        x, y = _stacked(_pairs(source, what), _length(source, what), what)
    else:
        raise TaskError(f"{what}: {_EXPECTED}, and this is {_named(source)}")
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise TaskError(f"{what}: x {list(x.shape)} and y {list(y.shape)}; expected a label for each example")
    if x.size == 0:
        raise TaskError(f"{what}: x {list(x.shape)} holds no example")
    return x, y


def is_hugging_face(source: Any) -> bool:
    """Whether it is a Hugging Face dataset that can be counted (one that is streamed cannot)."""
    return all(hasattr(source, name) for name in ("column_names", "features", "__len__", "__getitem__")) and not (
        isinstance(source, dict)
    )


def class_names_of(source: Any) -> tuple[str, ...]:
    """What a Hugging Face dataset calls its classes; nothing for any other source."""
    if not is_hugging_face(source):
        return ()
    for feature in source.features.values():
        if type(feature).__name__ == "ClassLabel":
            return tuple(feature.names)
    return ()


def _array(values: Any, what: str) -> Array:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype is torch.bfloat16 else values).numpy()
    try:
        return np.asarray(values)
    except ValueError:  # what numpy says of rows that are not equally long
        raise TaskError(f"{what}: examples of unlike sizes; expected one size") from None
    except Exception as error:
        raise TaskError(f"{what}: is no array ({first_line(error)})") from None


def _length(source: Any, what: str) -> int:
    try:
        return len(source)
    except Exception as error:
        raise TaskError(f"{what}: a Dataset without a length ({first_line(error)})") from None


def _pairs(source: Any, what: str) -> Iterator[Sequence[Any]]:
    for index in range(_length(source, what)):
        try:
            pair = source[index]
        except EsperError:
            raise
        except Exception as error:
            raise TaskError(f"{what}: example {index}: {type(error).__name__}: {first_line(error)}") from None
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TaskError(f"{what}: example {index} is {_named(pair)}; expected a pair (x, y)")
        yield pair


def _pairs_of_rows(source: Any, what: str) -> Iterator[Sequence[Any]]:
    inputs, label = _columns(source, what)
    rows = source.select_columns([*inputs, label])
    for index in range(len(source)):
        try:
            row = rows[index]
        except Exception as error:
            raise TaskError(f"{what}: example {index}: {type(error).__name__}: {first_line(error)}") from None
        yield (row[inputs[0]] if len(inputs) == 1 else [row[name] for name in inputs]), row[label]


def _columns(source: Any, what: str) -> tuple[list[str], str]:
    """The columns of a Hugging Face dataset that are inputs, and the one that is the label."""
    names = list(source.column_names)
    classes = [name for name in names if type(source.features[name]).__name__ == "ClassLabel"]
    label = next(iter([*classes, *(name for name in LABEL_COLUMNS if name in names)]), None)
    if label is None:
        raise TaskError(
            f"{what}: columns {spelled(names)}; expected one called {', '.join(LABEL_COLUMNS)}\n"
            "  as in: dataset.rename_column(NAME, 'label')"
        )
    others = [name for name in names if name != label]
    known = [name for name in INPUT_COLUMNS if name in others]
    if len(others) == 1 or known:
        return (known or others)[:1], label
    numeric = ("int", "uint", "float", "bool")
    if others and all(str(getattr(source.features[name], "dtype", "")).startswith(numeric) for name in others):
        return others, label
    raise TaskError(
        f"{what}: columns {spelled(names)}: which of them is the input does not show\n"
        f"  as in: dataset.select_columns([NAME, {label!r}])"
    )


def _stacked(pairs: Iterator[Sequence[Any]], count: int, what: str) -> Examples:
    """Pairs as two arrays, each made once: a list of examples would take their memory twice."""
    x = y = None
    for index, (inputs, label) in enumerate(pairs):
        inputs, label = (_array(value, f"{what}: example {index}") for value in (inputs, label))
        if x is None or y is None:
            x, y = np.empty((count, *inputs.shape), inputs.dtype), np.empty((count, *label.shape), _roomy(label))
        for value, whole in ((inputs, x), (label, y)):
            if value.shape != whole.shape[1:]:
                raise TaskError(
                    f"{what}: example {index} is {list(value.shape)}, and the first {list(whole.shape[1:])}; "
                    "expected one size"
                )
            whole[index] = value.item() if whole.dtype == object and value.ndim == 0 else value
    if x is None or y is None:
        raise TaskError(f"{what}: holds no example")
    return x, y


def _roomy(label: Array) -> Any:
    """The type of all labels, after the first: a text that is longer must not be cut."""
    return object if label.dtype.kind in "US" else label.dtype


def _named(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__module__}.{type(value).__name__}".replace("a builtins.", "a ")

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
from esper.errors import TaskError, first_line
from esper.factories import own_code

LABEL_COLUMNS = ("label", "labels", "target", "y", "fine_label")
INPUT_COLUMNS = ("image", "img", "x", "input", "inputs", "features", "pixel_values", "data")
_NUMPY_FLOATS = (torch.float64, torch.float32, torch.float16)
_EXPECTED = "expected (x, y), a torch Dataset or a Hugging Face dataset"

Array = NDArray[Any]
Examples = tuple[Array, Array]


def read_examples(source: Any, what: str) -> Examples:
    """Inputs [N, ...] and labels [N, ...].

    Args: source: what a user gave. what: it is, for messages: "train".

    Raises: TaskError where it is something else, is empty, or its examples are of unlike sizes.
    """
    if isinstance(source, tuple | list) and len(source) == 2:
        x, y = (_narrow(_array(values, f"{what} {name}")) for values, name in zip(source, "xy", strict=True))
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
    try:
        if isinstance(values, Tensor):
            is_narrow = values.is_floating_point() and values.dtype not in _NUMPY_FLOATS
            values = (values.float() if is_narrow else values).numpy(force=True)
        elif getattr(values, "mode", None) == "P":  # an image of PIL's, whose pixels are places in a palette
            values = values.convert("RGB")
        array = np.asarray(values)
    except ValueError:  # what numpy says of rows that are not equally long
        raise TaskError(f"{what}: examples of unlike sizes; expected one size") from None
    except Exception as error:
        raise TaskError(f"{what}: is no array ({first_line(error)})") from None
    if np.ma.is_masked(values):
        raise TaskError(f"{what}: holds masked values; fill them, or leave them out")
    return array


def _narrow(array: Array) -> Array:
    """Objects and strings, such as those of a column of a data frame, as the numbers or texts that all of them are."""
    if array.dtype.kind not in "OT":
        return array
    try:
        narrow = np.array(array.tolist())
    except (ValueError, TypeError, OverflowError):  # of rows that are not equally long
        return array
    kinds = {"U": str, "S": bytes}
    is_alike = all(isinstance(value, kinds.get(narrow.dtype.kind, object)) for value in array.flat)
    return narrow if narrow.dtype.kind in "biufUS" and is_alike else array


def _length(source: Any, what: str) -> int:
    try:
        return len(source)
    except Exception as error:
        raise TaskError(f"{what}: a Dataset without a length ({first_line(error)})") from None


def _pairs(source: Any, what: str) -> Iterator[Sequence[Any]]:
    for index in range(_length(source, what)):
        with own_code(f"{what}: example {index}", TaskError):
            pair = source[index]
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TaskError(f"{what}: example {index} is {_named(pair)}; expected a pair (x, y)")
        yield pair


def _pairs_of_rows(source: Any, what: str) -> Iterator[Sequence[Any]]:
    inputs, label = _columns(source, what)
    rows = source.select_columns([*inputs, label])
    for index in range(len(source)):
        with own_code(f"{what}: example {index}", TaskError):
            row = rows[index]
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
            x, y = (np.empty((count, *part.shape), _common(part.dtype, part.dtype)) for part in (inputs, label))
        x, y = _roomy(x, inputs), _roomy(y, label)
        for value, whole in ((inputs, x), (label, y)):
            if value.shape != whole.shape[1:]:
                raise TaskError(
                    f"{what}: example {index} is {list(value.shape)}, and the first {list(whole.shape[1:])}; "
                    "expected one size"
                )
            whole[index] = value.item() if whole.dtype == object and value.ndim == 0 else value
    if x is None or y is None:
        raise TaskError(f"{what}: holds no example")
    return _narrow(x), _narrow(y)


def _roomy(whole: Array, value: Array) -> Array:
    """The whole, of a type that this value goes into as it is."""
    common = _common(whole.dtype, value.dtype)
    return whole if whole.dtype == common else whole.astype(common)


def _common(one: np.dtype[Any], other: np.dtype[Any]) -> np.dtype[Any]:
    """A type for values of both, which are not all of the first one's; a text that is longer must not be cut."""
    if one == other and one.kind not in "US":
        return one
    is_number = {one.kind, other.kind} <= set("biuf")
    return np.result_type(one, other) if is_number else np.dtype(object)


def _named(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__module__}.{type(value).__name__}".replace("a builtins.", "a ")

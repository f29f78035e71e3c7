"""Layouts of inputs: which axis of an array is what, and so what kind of data it holds."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esper.errors import TaskError

_CHANNEL_COUNTS = (1, 3, 4)


def to_inputs(x: NDArray[Any], layout: str, what: str) -> tuple[Tensor, str]:
    """Inputs as torch has them, and their layout.

    Args:
        x: [N, ...] numbers. layout: one of `esper.tasks.settings.LAYOUTS`; "auto" tells it by the shape: four axes are
            images, whose channels are 1, 3 or 4, in front where both ends could be; three are gray images where they
            are whole numbers or as high as wide, else sequences; two are vectors.
        what: they are, for messages.

    Returns: images [N, C, H, W], sequences [N, T, F] or vectors [N, F].

    Raises: TaskError where they are no numbers, not finite, or of another layout.
    """
    if x.dtype.kind == "O":
        raise TaskError(f"{what}: holds objects, not numbers; are examples of unlike sizes?")
    if x.dtype.kind not in "biuf":
        raise TaskError(f"{what}: holds {x.dtype} values; expected numbers")
    layout = _told(x) if layout == "auto" else layout
    if layout and x.ndim != len(layout):
        raise TaskError(f"{what}: {list(x.shape)} is not [{', '.join(layout.upper())}]; see layout={layout}")
    if not layout:
        raise TaskError(f"{what}: {list(x.shape)}; expected images [N, C, H, W], sequences [N, T, F] or vectors [N, F]")
    if x.dtype.kind == "f":
        _check_finite(x, what)
    tensor = _tensor(x)
    if layout == "nhwc":
        return tensor.permute(0, 3, 1, 2).contiguous(), "nchw"
    return (tensor.unsqueeze(1), "nchw") if layout == "nhw" else (tensor, layout)


def _told(x: NDArray[Any]) -> str:
    if x.ndim == 4:
        is_last = x.shape[3] in _CHANNEL_COUNTS and x.shape[1] not in _CHANNEL_COUNTS
        return "nhwc" if is_last else "nchw"
    if x.ndim == 3:
        return "nhw" if x.dtype.kind != "f" or x.shape[1] == x.shape[2] else "ntf"
    return "nf" if x.ndim == 2 else ""


def _check_finite(x: NDArray[Any], what: str) -> None:
    for start in range(0, len(x), 4096):  # a mask of all of it would be as large again
        part = np.isfinite(x[start : start + 4096]).reshape(len(x[start : start + 4096]), -1).all(1)
        if not part.all():
            example = start + int(np.nonzero(~part)[0][0])
            raise TaskError(f"{what}: example {example} holds NaN or infinity; expected numbers alone")


def _tensor(x: NDArray[Any]) -> Tensor:
    """A copy, of a type that torch computes with; bytes stay bytes, as images take a quarter so."""
    if x.dtype.kind == "f":
        dtype: type = np.float64 if x.dtype.itemsize > 4 else np.float32
    elif x.dtype.kind == "u" and x.dtype.itemsize == 8:
        dtype = np.float64  # the upper half of them is beyond int64
    else:
        dtype = np.uint8 if x.dtype in (np.uint8, np.bool_) else np.int64
    return torch.from_numpy(x.astype(dtype, order="C"))

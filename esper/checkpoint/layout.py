"""The safetensors format: where in a file's bytes each tensor lies. See github.com/huggingface/safetensors.

Written and read here, not by the library, so that tensors go to the file and come from it without a copy in between.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from esper.files import parse_json

RESERVED_NAME = "__metadata__"
DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.complex64: "C64",
    torch.bool: "BOOL",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
}
_DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}
_ALIGNMENT = 8


class Place(NamedTuple):
    """One tensor: its bytes are data[start:stop]."""

    name: str
    dtype: torch.dtype
    shape: list[int]
    start: int
    stop: int


def lay_out(tensors: Mapping[str, Tensor]) -> tuple[bytes, list[str]]:
    """The head of a file with these tensors, and the order in which their bytes follow it."""
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # every tensor is aligned
    header, start = {}, 0
    for name in order:
        tensor = tensors[name]
        stop = start + tensor.nbytes
        header[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, order


def places(data: memoryview) -> list[Place]:
    """Where the tensors of a file are. Raises ValueError unless its bytes are a head and tensors without a gap."""
    body = 8 + int.from_bytes(data[:8], "little")
    if len(data) < 8 or body > len(data):
        raise ValueError("its head is cut short")
    header = parse_json(bytes(data[8:body]))
    if not isinstance(header, dict):
        raise ValueError("its head is no JSON object")
    header.pop(RESERVED_NAME, None)
    found = sorted((_place(name, entry, body) for name, entry in header.items()), key=lambda place: place[3:])
    position = body
    for place in found:
        if place.start != position or place.stop - place.start != math.prod(place.shape) * place.dtype.itemsize:
            raise ValueError(f"the place of {place.name!r} does not fit its shape and its neighbours")
        position = place.stop
    if position != len(data):
        raise ValueError(f"its head accounts for {position} bytes of {len(data)}")
    return found


def _place(name: str, entry: Any, body: int) -> Place:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name!r} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"{name!r} has the unknown dtype {dtype!r}")
    if not _is_sizes(shape) or not _is_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"{name!r} has a malformed shape or data_offsets")
    return Place(name, _DTYPES[dtype], shape, body + offsets[0], body + offsets[1])


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)

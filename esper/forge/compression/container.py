"""Container: all encoded tensors of a network as one tensor of bytes, so that a file has no overhead a tensor.

Four bytes: the length of the directory; the directory (JSON, by LZMA, its own length first); then all payloads in its
order. Nothing in it is run: codecs are looked up by name, and their settings are plain values that are checked.
"""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from esper.errors import CheckpointError, EsperError, FormatError, first_line
from esper.files import parse_json
from esper.forge.compression.codec import MOST_ELEMENTS, Encoded, decode
from esper.forge.compression.symbols import Symbols, expand, squeeze, unpack_symbols

KEY = "compressed"  # the one tensor of the file
_MOST_DIRECTORY_BYTES = 1 << 24
_DTYPES = {"f2": torch.float16, "f4": torch.float32}
_STREAM = "s"  # of symbols
_SPELLED = {dtype: name for name, dtype in _DTYPES.items()}


def pack(encoded: Mapping[str, Encoded], format: str = "plain") -> Tensor:
    """All tensors by name as one, [bytes] uint8. format: of the bundle whose tensors they are."""
    packed = {
        (name, key): value.stream if isinstance(value, Symbols) else value.contiguous()
        for name, item in encoded.items()
        for key, value in item.payload.items()
    }
    entries = [
        [
            name,
            item.codec,
            item.config,
            list(item.shape),
            [[key, *_describe(value, packed[name, key])] for key, value in item.payload.items()],
        ]
        for name, item in encoded.items()
    ]
    directory = json.dumps([format, entries], separators=(",", ":")).encode()
    head = squeeze(directory)
    payloads = [value.view(torch.uint8) for value in packed.values()]
    sizes = len(head).to_bytes(4, "little") + len(directory).to_bytes(4, "little")
    return torch.cat([torch.frombuffer(bytearray(sizes + head), dtype=torch.uint8), *payloads])


def unpack(packed: Tensor) -> tuple[str, dict[str, Encoded]]:
    """Format, and encoded tensors by name. Raises CheckpointError, in a line, on any that `pack` does not make."""
    if packed.dtype != torch.uint8 or packed.ndim != 1 or len(packed) < 8:
        raise CheckpointError("it is no compressed model: expected one tensor of bytes")
    data = packed.numpy()
    head_bytes, directory_bytes = (int.from_bytes(data[at : at + 4].tobytes(), "little") for at in (0, 4))
    if directory_bytes > _MOST_DIRECTORY_BYTES or 8 + head_bytes > len(data):
        raise CheckpointError("its directory is cut short or altered")
    try:
        directory = parse_json(expand(data[8 : 8 + head_bytes].tobytes(), directory_bytes))
    except FormatError as error:
        raise CheckpointError(f"its directory is altered: {first_line(error)}") from None
    found: dict[str, Encoded] = {}
    position = 8 + head_bytes
    try:
        format, entries = directory
        for name, codec, config, shape, parts in entries:
            payload: dict[str, Tensor | Symbols] = {}
            for key, kind, *sizes in parts:
                size = sizes[0] if kind == _STREAM else _DTYPES[kind].itemsize * sizes[0]
                if not _are_counts(sizes) or position + size > len(data):
                    raise ValueError("a payload goes past the end")
                here = packed[position : position + size]
                payload[key] = unpack_symbols(here, *sizes[1:]) if kind == _STREAM else here.clone().view(_DTYPES[kind])
                position += size
            if not (
                isinstance(codec, str)
                and isinstance(config, dict)
                and isinstance(name, str)
                and isinstance(format, str)
            ):
                raise TypeError("not of the types expected")
            if name in found or not _are_counts(shape):
                raise ValueError("a name twice, or a shape that is none")
            found[name] = Encoded(codec, config, tuple(shape), payload)
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise CheckpointError(f"its directory is altered: {first_line(error)}") from None
    if position != len(data):
        raise CheckpointError(f"its directory accounts for {position} bytes of {len(data)}")
    return format, found


def _describe(value: Tensor | Symbols, packed: Tensor) -> list[Any]:
    """Its kind and sizes: bytes, count and levels of symbols; count of floats."""
    if isinstance(value, Symbols):
        return [_STREAM, len(packed), len(value.values), value.levels]
    return [_SPELLED[value.dtype], value.numel()]


def _are_counts(sizes: Any) -> bool:
    return isinstance(sizes, list) and all(type(size) is int and 0 <= size <= MOST_ELEMENTS for size in sizes)


def decompress(packed: Tensor) -> tuple[str, dict[str, Tensor]]:
    """Format, and tensors by name. Raises CheckpointError naming a tensor that cannot be decoded."""
    tensors = {}
    format, found = unpack(packed)
    for name, encoded in found.items():
        try:
            tensors[name] = decode(encoded)
        except EsperError as error:
            raise CheckpointError(f"the tensor {name!r} cannot be decoded: {first_line(error)}") from None
    return format, tensors

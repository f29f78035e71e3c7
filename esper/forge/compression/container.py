"""Container: all encoded tensors of a network as one tensor of bytes, so that a file has no overhead a tensor.

Four bytes: the length of the directory; the directory (JSON, by LZMA, its own length first); then all payloads in its
order. Nothing in it is run: codecs are looked up by name, and their settings are plain values that are checked.
"""

import json
from collections.abc import Mapping

import torch
from torch import Tensor

from esper.errors import CheckpointError, EsperError, FormatError, first_line
from esper.files import parse_json
from esper.forge.compression.codec import Encoded, decode
from esper.forge.compression.symbols import expand, squeeze

KEY = "compressed"  # the one tensor of the file
_MOST_DIRECTORY_BYTES = 1 << 24
_DTYPES = {"u1": torch.uint8, "f2": torch.float16, "f4": torch.float32}
_SPELLED = {dtype: name for name, dtype in _DTYPES.items()}


def pack(encoded: Mapping[str, Encoded]) -> Tensor:
    """All tensors by name as one, [bytes] uint8."""
    entries = [
        [
            name,
            item.codec,
            item.config,
            list(item.shape),
            [[key, _SPELLED[value.dtype], value.numel()] for key, value in item.payload.items()],
        ]
        for name, item in encoded.items()
    ]
    directory = json.dumps(entries, separators=(",", ":")).encode()
    head = squeeze(directory)
    payloads = [value.contiguous().view(torch.uint8) for item in encoded.values() for value in item.payload.values()]
    sizes = len(head).to_bytes(4, "little") + len(directory).to_bytes(4, "little")
    return torch.cat([torch.frombuffer(bytearray(sizes + head), dtype=torch.uint8), *payloads])


def unpack(packed: Tensor) -> dict[str, Encoded]:
    """The encoded tensors by name. Raises CheckpointError in a line where the bytes are not what `pack` makes."""
    if packed.dtype != torch.uint8 or packed.ndim != 1 or len(packed) < 8:
        raise CheckpointError("it is no compressed model: expected one tensor of bytes")
    data = packed.numpy()
    head_bytes, directory_bytes = (int.from_bytes(data[at : at + 4].tobytes(), "little") for at in (0, 4))
    if directory_bytes > _MOST_DIRECTORY_BYTES or 8 + head_bytes > len(data):
        raise CheckpointError("its directory is cut short or altered")
    try:
        entries = parse_json(expand(data[8 : 8 + head_bytes].tobytes(), directory_bytes))
    except FormatError as error:
        raise CheckpointError(f"its directory is altered: {first_line(error)}") from None
    found, position = {}, 8 + head_bytes
    for entry in entries if isinstance(entries, list) else [None]:
        try:
            name, codec, config, shape, parts = entry
            payload = {}
            for key, dtype, count in parts:
                size = _DTYPES[dtype].itemsize * count
                if type(count) is not int or count < 0 or position + size > len(data):
                    raise ValueError("a payload goes past the end")
                payload[key] = packed[position : position + size].clone().view(_DTYPES[dtype])
                position += size
            if not (isinstance(codec, str) and isinstance(config, dict) and isinstance(name, str)):
                raise TypeError("not of the types expected")
            if name in found or not all(type(size) is int and size >= 0 for size in shape):
                raise ValueError("a name twice, or a shape that is none")
            found[name] = Encoded(codec, config, tuple(shape), payload)
        except (TypeError, ValueError, KeyError) as error:
            raise CheckpointError(f"its directory is altered: {first_line(error)}") from None
    if position != len(data):
        raise CheckpointError(f"its directory accounts for {position} bytes of {len(data)}")
    return found


def decompress(packed: Tensor) -> dict[str, Tensor]:
    """The float32 tensors by name. Raises CheckpointError naming a tensor that cannot be decoded."""
    tensors = {}
    for name, encoded in unpack(packed).items():
        try:
            tensors[name] = decode(encoded)
        except EsperError as error:
            raise CheckpointError(f"the tensor {name!r} cannot be decoded: {first_line(error)}") from None
    return tensors

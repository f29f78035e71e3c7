"""Symbols as bytes: small whole numbers by bits, by trits, by LZMA, or by the entropy coder, whichever is shortest.

LZMA finds what repeats; its settings are fixed here and never read from a file.
"""

import lzma
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esper.errors import CheckpointError, FormatError
from esper.forge.bitnet.trits import pack_trits, unpack_trits
from esper.forge.compression.entropy import coded_bytes, decode_symbols, encode_symbols

_FILTERS = [{"id": lzma.FILTER_LZMA1, "preset": 9, "lc": 0, "lp": 0, "pb": 0, "dict_size": 1 << 20}]
_BITS, _TRITS, _LZMA, _ENTROPY = range(4)  # the first byte of a stream; on disk, never renumber


@dataclass(frozen=True)
class Symbols:
    """values: [N] uint8, at least one, all below `levels` (2 to 256)."""

    values: Tensor
    levels: int

    @cached_property
    def num_bytes(self) -> int:
        """About as many as `stream` has, without making it."""
        count = len(self.values)
        return 1 + min(-(-count * _width(self.levels) // 8), coded_bytes(self.values.numpy()))

    @cached_property
    def stream(self) -> Tensor:
        """[bytes] uint8."""
        values, levels = self.values.numpy(), self.levels
        forms = {_BITS: _to_bits(values, levels), _LZMA: squeeze(values.tobytes()), _ENTROPY: encode_symbols(values)}
        if levels == 3:
            forms[_TRITS] = pack_trits(self.values.to(torch.int8) - 1).numpy().tobytes()
        form = min(forms, key=lambda form: len(forms[form]))
        return torch.frombuffer(bytearray([form]) + forms[form], dtype=torch.uint8)


def squeeze(data: bytes) -> bytes:
    """Bytes by LZMA, without a header."""
    return lzma.compress(data, lzma.FORMAT_RAW, filters=_FILTERS)


def expand(data: bytes, count: int) -> bytes:
    """`count` bytes that `squeeze` wrote. Raises CheckpointError where these are others, or more, or fewer."""
    try:
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_FILTERS)
        found = decompressor.decompress(data, max_length=count + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise CheckpointError(f"a compressed stream is altered: {error}") from None
    if len(found) != count or not decompressor.eof or decompressor.unused_data:
        raise CheckpointError(f"a compressed stream is altered: it does not hold {count} bytes")
    return found


def unpack_symbols(stream: Tensor, count: int, levels: int) -> Symbols:
    """The symbols [count]. Raises CheckpointError where the stream holds others, or more, or fewer."""
    data = stream.numpy().tobytes()
    form, body = data[:1], data[1:]
    if form == bytes([_BITS]):
        values = _from_bits(body, count, levels)
    elif form == bytes([_TRITS]) and levels == 3:
        values = _from_trits(body, count)
    elif form == bytes([_LZMA]):
        values = np.frombuffer(expand(body, count), np.uint8)
    elif form == bytes([_ENTROPY]) and count:
        values = decode_symbols(body, count)
    else:
        raise CheckpointError("a stream of symbols is of no form known here")
    if count and values.max() >= levels:
        raise CheckpointError(f"a stream of symbols holds {values.max()}, and there are {levels}")
    return Symbols(torch.from_numpy(values.copy()), levels)


def _width(levels: int) -> int:
    return max(1, (levels - 1).bit_length())


def _to_bits(values: NDArray[np.uint8], levels: int) -> bytes:
    return np.packbits(np.unpackbits(values[:, None], axis=1)[:, -_width(levels) :]).tobytes()


def _from_bits(body: bytes, count: int, levels: int) -> NDArray[np.uint8]:
    width = _width(levels)
    if len(body) != (count * width + 7) // 8:
        raise CheckpointError(f"a stream of symbols is cut short or too long: {len(body)} bytes for {count}")
    bits = np.unpackbits(np.frombuffer(body, np.uint8), count=count * width).reshape(count, width)
    return np.packbits(bits, axis=1).ravel() >> np.uint8(8 - width)


def _from_trits(body: bytes, count: int) -> NDArray[np.uint8]:
    try:
        trits = unpack_trits(torch.frombuffer(bytearray(body), dtype=torch.uint8), count)
    except (FormatError, ValueError) as error:  # the latter of no bytes at all
        raise CheckpointError(f"a stream of {count} ternary values is altered: {error}") from None
    return (trits + 1).to(torch.uint8).numpy()

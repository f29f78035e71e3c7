"""Symbols as bytes: small whole numbers packed by bits or trits, or by LZMA's range coder, whichever is shortest.

With no bits of context (lc = lp = pb = 0) LZMA codes a byte that repeats nothing by adaptive frequencies, near the
entropy of what came lately: an arithmetic coder that every Python carries. Its settings are fixed here and never read.
"""

import lzma

import numpy as np
import torch
from torch import Tensor

from esper.errors import CheckpointError

_FILTERS = [
    {"id": lzma.FILTER_LZMA1, "preset": 9, "lc": 0, "lp": 0, "pb": 0, "dict_size": 1 << 20, "nice_len": 273}
]
_BITS, _TRITS, _LZMA, _LZMA_PAIRS = range(4)  # the first byte of a stream; on disk, never renumber
_TRITS_A_BYTE = 5
_PAIR_LEVELS = 16


def squeeze(data: bytes) -> bytes:
    """Bytes by LZMA, without a header."""
    return lzma.compress(data, lzma.FORMAT_RAW, filters=_FILTERS)


def expand(data: bytes, count: int) -> bytes:
    """`count` bytes that `squeeze` wrote. Raises CheckpointError where these are others, or more, or fewer."""
    try:
        found = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_FILTERS).decompress(data, max_length=count + 1)
    except lzma.LZMAError as error:
        raise CheckpointError(f"a compressed stream is altered: {error}") from None
    if len(found) != count:
        raise CheckpointError(f"a compressed stream is altered: it does not hold {count} bytes")
    return found


def pack_symbols(symbols: Tensor, levels: int) -> Tensor:
    """A stream [bytes] uint8 of symbols [N] uint8, all below `levels` (2 to 256)."""
    values = symbols.numpy()
    forms = {_BITS: _to_bits(values, levels), _LZMA: squeeze(values.tobytes())}
    if levels == 3:
        forms[_TRITS] = _to_trits(values).tobytes()
    if levels <= _PAIR_LEVELS:
        padded = np.append(values, np.zeros(len(values) % 2, np.uint8))
        forms[_LZMA_PAIRS] = squeeze((padded[0::2] * levels + padded[1::2]).tobytes())
    form = min(forms, key=lambda form: len(forms[form]))
    return torch.frombuffer(bytearray([form]) + forms[form], dtype=torch.uint8)


def unpack_symbols(stream: Tensor, count: int, levels: int) -> Tensor:
    """The symbols [count] uint8. Raises CheckpointError where the stream holds others, or more, or fewer."""
    data = stream.numpy().tobytes()
    form, body = data[:1], data[1:]
    if form == bytes([_BITS]):
        values = _from_bits(body, count, levels)
    elif form == bytes([_TRITS]) and levels == 3:
        values = _from_trits(body, count)
    elif form == bytes([_LZMA]):
        values = np.frombuffer(expand(body, count), np.uint8)
    elif form == bytes([_LZMA_PAIRS]) and levels <= _PAIR_LEVELS:
        pairs = np.frombuffer(expand(body, (count + 1) // 2), np.uint8)
        values = np.stack([pairs // levels, pairs % levels], 1).ravel()[:count]
    else:
        raise CheckpointError("a stream of symbols is of no form known here")
    if len(values) and values.max() >= levels:
        raise CheckpointError(f"a stream of symbols holds {values.max()}, and there are {levels}")
    return torch.from_numpy(values.copy())


def _width(levels: int) -> int:
    return max(1, (levels - 1).bit_length())


def _to_bits(values: np.ndarray, levels: int) -> bytes:
    return np.packbits(np.unpackbits(values[:, None], axis=1)[:, -_width(levels) :]).tobytes()


def _from_bits(body: bytes, count: int, levels: int) -> np.ndarray:
    width = _width(levels)
    if len(body) != (count * width + 7) // 8:
        raise CheckpointError(f"a stream of symbols is cut short or too long: {len(body)} bytes for {count}")
    bits = np.unpackbits(np.frombuffer(body, np.uint8), count=count * width).reshape(count, width)
    return np.packbits(bits, axis=1).ravel() >> (8 - width)


def _to_trits(values: np.ndarray) -> np.ndarray:
    padded = np.zeros(-(-len(values) // _TRITS_A_BYTE) * _TRITS_A_BYTE, np.uint8)
    padded[: len(values)] = values
    return padded.reshape(-1, _TRITS_A_BYTE) @ (3 ** np.arange(_TRITS_A_BYTE)).astype(np.uint8)


def _from_trits(body: bytes, count: int) -> np.ndarray:
    packed = np.frombuffer(body, np.uint8)
    if len(packed) != -(-count // _TRITS_A_BYTE) or (len(packed) and packed.max() >= 3**_TRITS_A_BYTE):
        raise CheckpointError(f"a stream of {count} ternary values is cut short, too long or altered")
    return (packed[:, None] // (3 ** np.arange(_TRITS_A_BYTE)).astype(np.uint8) % 3).ravel()[:count]

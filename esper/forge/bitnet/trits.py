"""Five trits a byte: 3^5 = 243 of its 256 values."""

import torch
from torch import Tensor

from esper.errors import FormatError

TRITS_PER_BYTE = 5
_POWERS = torch.tensor([3**place for place in range(TRITS_PER_BYTE)], dtype=torch.uint8)
_PADDING = 1  # the code of a zero


def packed_bytes(count: int) -> int:
    """How many bytes that many trits take."""
    return -(-count // TRITS_PER_BYTE)


def pack_trits(trits: Tensor) -> Tensor:
    """Args: trits of any shape, of -1, 0 and 1. Returns: [ceil(n / 5)] uint8, the first of five trits the lowest."""
    codes = (trits.flatten() + 1).to(torch.uint8)
    missing = -len(codes) % TRITS_PER_BYTE
    codes = torch.cat([codes, codes.new_full((missing,), _PADDING)])
    return (codes.view(-1, TRITS_PER_BYTE) * _POWERS.to(codes.device)).sum(1, dtype=torch.uint8)


def unpack_trits(packed: Tensor, count: int) -> Tensor:
    """The trits [count], int8. Raises: FormatError where the bytes are not what `pack_trits` makes of so many."""
    if packed.dtype is not torch.uint8 or packed.shape != (packed_bytes(count),):
        expected = f"expected torch.uint8 [{packed_bytes(count)}] for {count:,} trits"
        raise FormatError(f"{packed.dtype} {list(packed.shape)} where packed trits should be; {expected}")
    if count == 0:
        return torch.zeros(0, dtype=torch.int8, device=packed.device)
    if packed.max() >= 3**TRITS_PER_BYTE:
        raise FormatError(f"a byte of {int(packed.max())} among packed trits, where five make at most 242")
    codes = packed[:, None] // _POWERS.to(packed.device) % 3
    trits = codes.to(torch.int8).flatten() - 1
    if trits[count:].any():
        raise FormatError(f"more than {count:,} packed trits: what fills the last byte is not zero")
    return trits[:count].contiguous()

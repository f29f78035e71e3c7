"""What any language model must beat: the frequency of each byte after the one before it."""

import math

import torch
from torch import Tensor

BITS_PER_NAT = 1.0 / math.log(2.0)


class Bigram:
    """Counts of pairs, add-one smoothed.

    Args: x, y: tokens and those that follow them, any shape, int64 below `vocab_size`.
    """

    def __init__(self, x: Tensor, y: Tensor, vocab_size: int) -> None:
        counts = torch.bincount((x * vocab_size + y).flatten(), minlength=vocab_size**2).view(vocab_size, vocab_size)
        smoothed = counts.double() + 1.0
        self.bits = -(smoothed / smoothed.sum(1, keepdim=True)).log2()  # [V, V]: from the token before to the next

    def bits_per_token(self, x: Tensor, y: Tensor) -> float:
        """Mean cross-entropy in bits; with byte tokens, bits per byte. Args: as above."""
        return float(self.bits[x, y].mean())

    def accuracy(self, x: Tensor, y: Tensor) -> float:
        """How often the likeliest next token is right, in percent. Args: as above."""
        return float((self.bits.argmin(1)[x] == y).double().mean() * 100.0)

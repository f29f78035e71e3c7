"""SeedLM: blocks of weights as the seed of a shift register and a few coefficients (arXiv 2410.10714).

A linear feedback shift register that starts at the seed makes a pseudo-random basis [block, rank]; a block is its basis
times coefficients of four bits with a shared exponent. The projections on all bases choose 32 candidates; of these the
one is taken that is nearest *after* its coefficients were quantised.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from esper.errors import CheckpointError
from esper.forge.compression.codec import Payload, Statistics, float_values, matrix_shape, symbol_values
from esper.forge.compression.config import CODECS, SeedConfig
from esper.forge.compression.symbols import Symbols

_TAPS = {8: 0xB8, 9: 0x110, 10: 0x240, 11: 0x500, 12: 0xE08, 13: 0x1C80, 14: 0x3802, 15: 0x6000, 16: 0xD008}
_CANDIDATES = 32
_TOP = 7  # of a coefficient: four bits
_EXPONENTS = 16
_CHUNK_BYTES = 1 << 26


@cache
def register_bases(block: int, rank: int, seed_bits: int) -> Tensor:
    """The basis of every seed, [seeds, block, rank] float32 in (-1, 1); seed s is the register's state s + 1.

    Each number takes `seed_bits` steps of the register: states that follow each other are shifted copies.
    """
    state = np.arange(1, 2**seed_bits, dtype=np.int64)
    numbers = np.empty((len(state), block * rank), np.float32)
    for column in range(block * rank):
        for _ in range(seed_bits):
            state = (state >> 1) ^ (-(state & 1) & _TAPS[seed_bits])
        numbers[:, column] = state / 2 ** (seed_bits - 1) - 1
    return torch.from_numpy(numbers).view(-1, block, rank)


@CODECS.register("seedlm", SeedConfig)
class SeedCodec:
    """Blocks run along rows, and over their ends."""

    def __init__(self, config: SeedConfig) -> None:
        self.block, self.rank, self.seed_bits = config.block, config.rank, config.seed_bits
        self.bases = register_bases(config.block, config.rank, config.seed_bits)

    def encode(self, weight: Tensor, statistics: Statistics) -> dict[str, Tensor | Symbols]:
        flat = weight.flatten()
        blocks = torch.nn.functional.pad(flat, (0, -len(flat) % self.block)).view(-1, self.block)
        directions = torch.linalg.qr(self.bases)[0].transpose(1, 2).reshape(-1, self.block).T  # [block, seeds · rank]
        inverses = torch.linalg.pinv(self.bases)
        top = blocks.abs().max().clamp(min=2**-100).log2().ceil().exp2() * 4
        chunk = max(1, _CHUNK_BYTES // (4 * len(self.bases) * self.rank))
        found = [self._search(part, directions, inverses, top) for part in blocks.split(chunk)]
        seeds, exponents, codes = (torch.cat(parts) for parts in zip(*found, strict=True))
        return {
            "seeds": Symbols((seeds & 255).to(torch.uint8), 256),
            "high": Symbols((seeds >> 8).to(torch.uint8), 2 ** max(1, self.seed_bits - 8)),
            "exponents": Symbols(exponents.to(torch.uint8), _EXPONENTS),
            "codes": Symbols((codes + _TOP).to(torch.uint8).flatten(), 2 * _TOP + 1),
            "top": top[None],
        }

    def decode(self, payload: Payload, shape: tuple[int, ...]) -> Tensor:
        height, width = matrix_shape(shape)
        count = -(-height * width // self.block)
        top = float_values(payload, "top", torch.float32, 1)
        low = symbol_values(payload, "seeds", count, 256).int()
        high = symbol_values(payload, "high", count, 2 ** max(1, self.seed_bits - 8)).int()
        exponents = symbol_values(payload, "exponents", count, _EXPONENTS)
        codes = symbol_values(payload, "codes", count * self.rank, 2 * _TOP + 1)
        seeds = (high << 8) + low
        if int(seeds.max()) >= len(self.bases):
            raise CheckpointError("a seed is beyond the last state of its register")
        decoded = _combine(self.bases[seeds], codes.view(-1, self.rank).float() - _TOP, _unit(top, exponents))
        if not bool(decoded.isfinite().all()):
            raise CheckpointError("a tensor's coefficients are out of bounds")
        return decoded.flatten()[: height * width].view(shape)

    def _search(self, blocks: Tensor, directions: Tensor, inverses: Tensor, top: Tensor) -> tuple[Tensor, ...]:
        """Seeds [N], exponents [N], codes [N, rank] of blocks [N, block]."""
        explained = (blocks @ directions).square_().view(len(blocks), -1, self.rank).sum(2)  # [N, seeds]
        candidates = explained.topk(min(_CANDIDATES, explained.shape[1]), dim=1).indices  # [N, K]
        exact = (inverses[candidates] @ blocks[:, None, :, None])[..., 0]  # [N, K, rank]
        exponents = (top / exact.abs().amax(2).clamp(min=1e-30)).log2().floor().clamp(0, _EXPONENTS - 1)
        unit = _unit(top, exponents)
        codes = (exact / unit[..., None]).round().clamp(-_TOP, _TOP)
        error = (_combine(self.bases[candidates], codes, unit) - blocks[:, None]).square().sum(2)
        best = error.argmin(1)
        rows = torch.arange(len(blocks))
        return candidates[rows, best], exponents[rows, best], codes[rows, best]


def _unit(top: Tensor, exponents: Tensor) -> Tensor:
    """What a coefficient of 1 is worth; powers of two are exact."""
    powers = torch.tensor([2.0**-k / _TOP for k in range(_EXPONENTS)])
    return top * powers[exponents.int()]


def _combine(bases: Tensor, codes: Tensor, unit: Tensor) -> Tensor:
    """Bases [..., block, rank] times coefficients [..., rank]: one product after another, in order."""
    total = bases[..., 0] * codes[..., 0:1]
    for column in range(1, bases.shape[-1]):
        total = total + bases[..., column] * codes[..., column : column + 1]
    return total * unit[..., None]

"""Grid: whole multiples of a step for each row and column, with error feedback, entropy-coded.

Under an entropy coder the best uniform quantiser rounds to a plain, unbounded grid, and loses a quarter bit a weight to
the limit of rate-distortion theory. Steps follow water-filling over the factors of the Fisher matrix: a finer one where
an error costs more, so that all weights add equally to the loss (WaterSIC: arXiv 2603.04956).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from esper.errors import CheckpointError
from esper.forge.compression.codec import Statistics, matrix_shape, part
from esper.forge.compression.config import CODECS, GridConfig
from esper.forge.compression.feedback import factorize, round_with_feedback
from esper.forge.compression.symbols import pack_symbols, unpack_symbols

_TOP = 127
_PER_OCTAVE = 4
_MIDDLE = 16  # of the exponents: eight octaves in all
_EXPONENTS = 2 * _MIDDLE
_POWERS = torch.tensor([2.0 ** ((k - _MIDDLE) / _PER_OCTAVE) for k in range(_EXPONENTS)])
_ROUNDS = 24  # of bisection


@CODECS.register("grid", GridConfig)
class GridCodec:
    """Columns lie one after another, the widest steps first: neighbours in the stream then have like frequencies."""

    def __init__(self, config: GridConfig) -> None:
        self.bits = config.bits

    def encode(self, weight: Tensor, statistics: Statistics) -> dict[str, Tensor]:
        factors = factorize(statistics.inputs)
        cares = statistics.rows / statistics.rows.mean().clamp(min=1e-30) + 0.01  # rows that nothing read count a little
        row_symbols, column_symbols = _exponents(cares), _exponents(factors.blocks[:, 0, 0])
        rows, columns = _POWERS[row_symbols.int()], _POWERS[column_symbols.int()]
        step = self._step(weight / rows[:, None] / columns)
        steps = step * rows[:, None]
        codes = torch.empty_like(weight)

        def nearest(column: int, target: Tensor) -> Tensor:
            width = steps * columns[column]
            chosen = (target / width).round().clamp(-_TOP, _TOP)
            codes[:, column] = chosen[:, 0]
            return chosen * width

        round_with_feedback(weight, factors, nearest)
        symbols = _zigzag(codes.T[_order(column_symbols)].flatten())
        return {
            "codes": pack_symbols(symbols, 2 * _TOP + 1),
            "rows": pack_symbols(row_symbols, _EXPONENTS),
            "columns": pack_symbols(column_symbols, _EXPONENTS),
            "step": step[None],
        }

    def decode(self, payload: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        height, width = matrix_shape(shape)
        step = part(payload, "step", torch.float32, 1)
        rows = unpack_symbols(part(payload, "rows", torch.uint8), height, _EXPONENTS)
        columns = unpack_symbols(part(payload, "columns", torch.uint8), width, _EXPONENTS)
        symbols = unpack_symbols(part(payload, "codes", torch.uint8), height * width, 2 * _TOP + 1)
        codes = torch.empty(width, height)
        codes[_order(columns)] = _unzigzag(symbols).view(width, height)
        decoded = codes.T * ((step * _POWERS[rows.int()])[:, None] * _POWERS[columns.int()])
        if not bool(decoded.isfinite().all()):
            raise CheckpointError("a tensor's step is out of bounds")
        return decoded.contiguous()

    def _step(self, scaled: Tensor) -> Tensor:
        """The step at which what is rounded has the entropy asked for; feedback hardly changes it."""
        low, high = (scaled.abs().max() * factor for factor in (1 / _TOP, 4.0))
        for _ in range(_ROUNDS):
            step = (low * high).sqrt()
            low, high = (step, high) if _entropy((scaled / step).round()) > self.bits else (low, step)
        return high.clamp(min=1e-30)


def _exponents(cares: Tensor) -> Tensor:
    """Steps by how much errors cost: a quarter octave each, about the middle."""
    octaves = -0.5 * cares.log2()
    return ((octaves - octaves.median()) * _PER_OCTAVE + _MIDDLE).round().clamp(0, _EXPONENTS - 1).to(torch.uint8)


def _order(column_symbols: Tensor) -> Tensor:
    return column_symbols.argsort(descending=True, stable=True)


def _zigzag(codes: Tensor) -> Tensor:
    """0, -1, 1, -2, 2 … as 0, 1, 2, 3, 4 …"""
    return torch.where(codes < 0, -2 * codes - 1, 2 * codes).to(torch.uint8)


def _unzigzag(symbols: Tensor) -> Tensor:
    values = symbols.float()
    return torch.where(symbols % 2 == 1, -(values + 1) / 2, values / 2)


def _entropy(values: Tensor) -> float:
    shares = values.unique(return_counts=True)[1].double() / values.numel()
    return float(-(shares * shares.log2()).sum())

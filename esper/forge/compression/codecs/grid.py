"""Grid: whole multiples of a step for each row and column, with error feedback, entropy-coded.

Under an entropy coder the best uniform quantiser rounds to a plain, unbounded grid, and loses a quarter bit a weight to
the limit of rate-distortion theory. Steps follow water-filling over the factors of the Fisher matrix: a finer one where
an error costs more, so that all weights add equally to the loss (WaterSIC: arXiv 2603.04956).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esper.errors import CheckpointError
from esper.forge.compression.codec import Payload, Statistics, float_values, matrix_shape, symbol_values
from esper.forge.compression.config import CODECS, GridConfig
from esper.forge.compression.feedback import round_with_feedback
from esper.forge.compression.symbols import Symbols

_TOP = 127
_PER_OCTAVE = 4
_MIDDLE = 16  # of the exponents: eight octaves in all
_EXPONENTS = 2 * _MIDDLE
_POWERS = torch.tensor([2.0 ** ((k - _MIDDLE) / _PER_OCTAVE) for k in range(_EXPONENTS)])
_ROUNDS = 20  # of bisection
_MOST_WEIGHTS = 1 << 13  # that a step is found on


@CODECS.register("grid", GridConfig)
class GridCodec:
    """Columns, or rows, lie one after another, the widest steps first: neighbours then have like frequencies."""

    def __init__(self, config: GridConfig) -> None:
        self.bits = config.bits

    def encode(self, weight: Tensor, statistics: Statistics) -> dict[str, Tensor | Symbols]:
        factors = statistics.factors()
        cares = (
            statistics.rows / statistics.rows.mean().clamp(min=1e-30) + 0.01
        )  # rows that nothing read count a little
        row_symbols, column_symbols = _exponents(cares), _exponents(factors.blocks[:, 0, 0])
        rows, columns = _POWERS[row_symbols.int()], _POWERS[column_symbols.int()]
        step = self._step(weight / rows[:, None] / columns)
        steps, widths = (step * rows).numpy(), columns.numpy()
        codes = np.empty(weight.T.shape, np.float32)

        def nearest(column: int, asked: NDArray[np.float32]) -> NDArray[np.float32]:
            width = steps * widths[column]
            codes[column] = np.clip(np.rint(asked[0] / width), -_TOP, _TOP)
            return codes[column : column + 1] * width

        round_with_feedback(weight, factors, nearest)
        across = torch.from_numpy(codes)[_order(column_symbols)]
        along = torch.from_numpy(codes).T[_order(row_symbols)]
        streams = [Symbols(_zigzag(values.flatten()), 2 * _TOP + 1) for values in (across, along)]
        layout = min((0, 1), key=lambda number: streams[number].num_bytes)
        return {
            "codes": streams[layout],
            "layout": Symbols(torch.tensor([layout], dtype=torch.uint8), 2),
            "rows": Symbols(row_symbols, _EXPONENTS),
            "columns": Symbols(column_symbols, _EXPONENTS),
            "step": step[None],
        }

    def decode(self, payload: Payload, shape: tuple[int, ...]) -> Tensor:
        height, width = matrix_shape(shape)
        step = float_values(payload, "step", torch.float32, 1)
        rows = symbol_values(payload, "rows", height, _EXPONENTS)
        columns = symbol_values(payload, "columns", width, _EXPONENTS)
        found = _unzigzag(symbol_values(payload, "codes", height * width, 2 * _TOP + 1))
        codes = torch.empty(height, width)
        if symbol_values(payload, "layout", 1, 2)[0]:
            codes[_order(rows)] = found.view(height, width)
        else:
            codes.T[_order(columns)] = found.view(width, height)
        decoded = codes * ((step * _POWERS[rows.int()])[:, None] * _POWERS[columns.int()])
        if not bool(decoded.isfinite().all()):
            raise CheckpointError("a tensor's step is out of bounds")
        return decoded

    def _step(self, scaled: Tensor) -> Tensor:
        """The step at which what is rounded has the entropy asked for; feedback hardly changes it."""
        scaled = scaled.flatten()
        low, high = (scaled.abs().max().clamp(min=1e-15) * factor for factor in (1 / _TOP, 4.0))
        scaled = scaled[:: max(1, len(scaled) // _MOST_WEIGHTS)]
        for _ in range(_ROUNDS):
            step = (low * high).sqrt()
            low, high = (step, high) if _entropy((scaled / step).round()) > self.bits else (low, step)
        return high.clamp(min=1e-30)


def _exponents(cares: Tensor) -> Tensor:
    """Steps by how much errors cost: a quarter octave each, about the middle."""
    octaves = -0.5 * cares.log2()
    return ((octaves - octaves.median()) * _PER_OCTAVE + _MIDDLE).round().clamp(0, _EXPONENTS - 1).to(torch.uint8)


def _order(exponents: Tensor) -> Tensor:
    return exponents.argsort(descending=True, stable=True)


def _zigzag(codes: Tensor) -> Tensor:
    """0, -1, 1, -2, 2 … as 0, 1, 2, 3, 4 …"""
    return torch.where(codes < 0, -2 * codes - 1, 2 * codes).to(torch.uint8)


def _unzigzag(symbols: Tensor) -> Tensor:
    values = symbols.float()
    return torch.where(symbols % 2 == 1, -(values + 1) / 2, values / 2)


def _entropy(values: Tensor) -> float:
    counts = (values.clamp(-_TOP, _TOP) + _TOP).int().bincount().double()
    shares = counts[counts > 0] / values.numel()
    return float(-(shares * shares.log2()).sum())

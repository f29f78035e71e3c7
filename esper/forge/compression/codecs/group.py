"""Group quantisation: int8, int4, int3; neighbours share a scale. Every weight is rounded by itself."""

import torch
from torch import Tensor

from esper.forge.compression.codec import Payload, Statistics, float_values, matrix_shape, symbol_values
from esper.forge.compression.config import CODECS, GroupConfig
from esper.forge.compression.symbols import Symbols

_SHRINKS = torch.linspace(1.0, 0.4, 25)  # of the range that the largest weight needs; 1 is min-max


@CODECS.register("group", GroupConfig)
class GroupCodec:
    """Groups run along rows, and over their ends where a row is no multiple of a group."""

    def __init__(self, config: GroupConfig) -> None:
        self.size = config.group_size
        self.top = 2 ** (config.bits - 1) - 1
        self.shrinks = _SHRINKS if config.clip else _SHRINKS[:1]

    def encode(self, weight: Tensor, statistics: Statistics) -> dict[str, Tensor | Symbols]:
        """Per group the scale whose rounding loses least, weighed by the diagonal of the statistics."""
        groups = self._grouped(weight)
        cares = self._grouped(statistics.rows[:, None] * statistics.inputs.diagonal() + 1e-12)
        needed = groups.abs().amax(1) / self.top
        scales = (needed[:, None] * self.shrinks).half().float().clamp(min=2**-24)  # [G, K]
        losses = torch.stack([(cares * (groups - self._round(groups, s) * s[:, None]) ** 2).sum(1) for s in scales.T])
        best = scales.gather(1, losses.argmin(0)[:, None])[:, 0]
        symbols = (self._round(groups, best) + self.top).to(torch.uint8).flatten()[: weight.numel()]
        return {"codes": Symbols(symbols, 2 * self.top + 1), "scales": best.half()}

    def decode(self, payload: Payload, shape: tuple[int, ...]) -> Tensor:
        rows, columns = matrix_shape(shape)
        count = rows * columns
        scales = float_values(payload, "scales", torch.float16, -(-count // self.size))
        found = symbol_values(payload, "codes", count, 2 * self.top + 1)
        return ((found.float() - self.top) * scales.repeat_interleave(self.size)[:count]).view(shape)

    def _grouped(self, values: Tensor) -> Tensor:
        flat = values.flatten()
        return torch.nn.functional.pad(flat, (0, -len(flat) % self.size)).view(-1, self.size)

    def _round(self, groups: Tensor, scales: Tensor) -> Tensor:
        return (groups / scales[:, None]).round().clamp(-self.top, self.top)

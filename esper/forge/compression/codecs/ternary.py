"""Ternary: one scale a tensor and three values, five to a byte or fewer bits still; exact where weights are ternary."""

import torch
from torch import Tensor

from esper.forge.compression.codec import Payload, Statistics, float_values, matrix_shape, symbol_values
from esper.forge.compression.config import CODECS, TernaryConfig
from esper.forge.compression.symbols import Symbols

_THRESHOLDS = torch.linspace(0.1, 1.5, 29)  # of the mean magnitude


def is_ternary(weight: Tensor) -> bool:
    """Whether all values are -s, 0 or s, for one s above zero."""
    magnitudes = weight.abs()
    top = magnitudes.max()
    return bool(top > 0) and bool(((magnitudes == 0) | (magnitudes == top)).all())


@CODECS.register("ternary", TernaryConfig)
class TernaryCodec:
    """Other weights become their nearest ternary ones (Li & Liu 2016), by the best of a few thresholds."""

    def __init__(self, config: TernaryConfig) -> None:
        pass

    def encode(self, weight: Tensor, statistics: Statistics) -> dict[str, Tensor | Symbols]:
        magnitudes = weight.abs()
        if is_ternary(weight):
            is_kept, scale = magnitudes > 0, magnitudes.max()
        else:
            kept = torch.stack([magnitudes > t * magnitudes.mean() for t in _THRESHOLDS])
            scales = (kept * magnitudes).sum((1, 2)) / kept.sum((1, 2)).clamp(min=1)
            best = (kept.sum((1, 2)) * scales.square()).argmax()  # what it explains of the sum of squares
            is_kept, scale = kept[best], scales[best]
        symbols = (is_kept * weight.sign() + 1).to(torch.uint8).flatten()
        return {"trits": Symbols(symbols, 3), "scale": scale[None]}

    def decode(self, payload: Payload, shape: tuple[int, ...]) -> Tensor:
        rows, columns = matrix_shape(shape)
        scale = float_values(payload, "scale", torch.float32, 1)
        found = symbol_values(payload, "trits", rows * columns, 3)
        return ((found.float() - 1) * scale).view(shape)

"""Hyper-compression: tuples of weights as one number, the time at which a trajectory passes near (arXiv 2409.00592).

A straight line that winds around the unit cube at irrational slopes comes near every point of it; a tuple is stored as
which of the first `points` steps comes nearest. As in the paper, tuples are classed by how far out they lie, and each
class has a cube of its own about the middle, half as wide as the one before.
"""

import torch
from torch import Tensor

from esper.errors import CheckpointError
from esper.forge.compression.codec import Payload, Statistics, float_values, matrix_shape, symbol_values
from esper.forge.compression.config import CODECS, HyperConfig
from esper.forge.compression.symbols import Symbols

_CLASSES = 4
_ONE = 1 << 24  # the cube's edge in whole steps: float32 holds each of them exactly


def trajectory(dim: int, points: int) -> Tensor:
    """The first `points` steps [points, dim] in (-1, 1): slopes are powers of the generalised golden ratio."""
    ratio = 2.0
    for _ in range(64):  # the positive root of x^(dim + 1) = x + 1
        ratio = (1 + ratio) ** (1 / (dim + 1))
    slopes = torch.tensor([round(_ONE / ratio ** (k + 1)) for k in range(dim)])
    steps = (torch.arange(1, points + 1)[:, None] * slopes + _ONE // 2) % _ONE
    return (2 * steps + 1 - _ONE).float() / _ONE


@CODECS.register("hyper", HyperConfig)
class HyperCodec:
    """A scale a row. Columns that fill no whole tuple are padded with zeros."""

    def __init__(self, config: HyperConfig) -> None:
        self.dim, self.points = config.dim, config.points
        self.path = trajectory(config.dim, config.points)

    def encode(self, weight: Tensor, statistics: Statistics) -> dict[str, Tensor | Symbols]:
        weight = torch.nn.functional.pad(weight, (0, -weight.shape[1] % self.dim))
        scales = weight.abs().amax(1).half().float().clamp(min=2**-14)[:, None]
        tuples = (weight / scales).view(-1, self.dim)
        outside = -tuples.abs().amax(1).clamp(min=1e-30).log2()
        classes = outside.floor().clamp(0, _CLASSES - 1)
        wide = tuples * classes.exp2()[:, None]
        times = (self.path.square().sum(1) - 2 * wide @ self.path.T).argmin(1)
        return {
            "times": Symbols(times.to(torch.uint8), self.points),
            "classes": Symbols(classes.to(torch.uint8), _CLASSES),
            "scales": scales[:, 0].half(),
        }

    def decode(self, payload: Payload, shape: tuple[int, ...]) -> Tensor:
        height, width = matrix_shape(shape)
        count = height * -(-width // self.dim)
        scales = float_values(payload, "scales", torch.float16, height)
        times = symbol_values(payload, "times", count, self.points)
        classes = symbol_values(payload, "classes", count, _CLASSES)
        edges = torch.tensor([2.0**-k for k in range(_CLASSES)])
        tuples = self.path[times.int()] * edges[classes.int()][:, None]
        decoded = tuples.view(height, -1)[:, :width] * scales[:, None]
        if not bool(decoded.isfinite().all()):
            raise CheckpointError("a tensor's scales are out of bounds")
        return decoded.contiguous()

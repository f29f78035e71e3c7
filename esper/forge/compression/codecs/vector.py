"""Vector quantisation: neighbours as one entry of a codebook, with error feedback (GPTVQ: arXiv 2402.15319)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esper.errors import CheckpointError
from esper.forge.compression.codec import Payload, Statistics, float_values, matrix_shape, symbol_values
from esper.forge.compression.config import CODECS, VectorConfig
from esper.forge.compression.feedback import round_with_feedback
from esper.forge.compression.symbols import Symbols
from esper.tasks.task import named_generator

_LLOYD_STEPS = 10
_MOST_POINTS = 8192  # that a codebook is learned from


@CODECS.register("vector", VectorConfig)
class VectorCodec:
    """A scale a row, a codebook a tensor. Columns that fill no whole vector are padded with zeros."""

    def __init__(self, config: VectorConfig) -> None:
        self.dim, self.entries = config.dim, config.entries

    def encode(self, weight: Tensor, statistics: Statistics) -> dict[str, Tensor | Symbols]:
        """k-means over the scaled vectors, then block after block the entry that costs least."""
        padding = -weight.shape[1] % self.dim
        weight = torch.nn.functional.pad(weight, (0, padding))
        scales = weight.square().mean(1).sqrt().half().float().clamp(min=2**-14)[:, None]
        scaled = weight / scales
        cares = (statistics.rows[:, None] * scales.square()).repeat(1, weight.shape[1] // self.dim).flatten()
        codebook = _k_means(scaled.view(-1, self.dim), cares, self.entries).half().float()
        factors = statistics.factors(self.dim)
        entries, widths, metrics = codebook.numpy(), scales[:, 0].numpy(), factors.blocks.numpy()
        indices = np.empty((weight.shape[1] // self.dim, len(weight)), np.uint8)

        def nearest(block: int, asked: NDArray[np.float32]) -> NDArray[np.float32]:
            away = entries @ metrics[block]
            costs = (away * entries).sum(1)[:, None] - 2 * (away @ (asked / widths))  # less what is the same for all
            indices[block] = costs.argmin(0)
            return entries[indices[block]].T * widths

        round_with_feedback(weight, factors, nearest)
        return {
            "indices": Symbols(torch.from_numpy(indices.T.ravel().copy()), self.entries),
            "scales": scales[:, 0].half(),
            "codebook": codebook.flatten().half(),
        }

    def decode(self, payload: Payload, shape: tuple[int, ...]) -> Tensor:
        height, width = matrix_shape(shape)
        blocks = -(-width // self.dim)
        scales = float_values(payload, "scales", torch.float16, height)
        codebook = float_values(payload, "codebook", torch.float16, self.entries * self.dim).view(-1, self.dim)
        indices = symbol_values(payload, "indices", height * blocks, self.entries)
        decoded = codebook[indices.int()].view(height, blocks * self.dim)[:, :width] * scales[:, None]
        if not bool(decoded.isfinite().all()):
            raise CheckpointError("a tensor's scales are out of bounds")
        return decoded.contiguous()


def _k_means(points: Tensor, cares: Tensor, entries: int) -> Tensor:
    """Centres [entries, dim] of points [N, dim], each of which counts as much as it is cared for."""
    generator = named_generator(0, "codebook")
    if len(points) > _MOST_POINTS:
        some = torch.randperm(len(points), generator=generator)[:_MOST_POINTS]
        points, cares = points[some], cares[some]
    centres = points[torch.randint(len(points), (entries,), generator=generator)].clone()
    for _ in range(_LLOYD_STEPS):
        owner = (centres.square().sum(1) - 2 * points @ centres.T).argmin(1)
        weights = torch.zeros(entries).index_add_(0, owner, cares)
        sums = torch.zeros_like(centres).index_add_(0, owner, points * cares[:, None])
        is_used = weights > 0
        centres[is_used] = sums[is_used] / weights[is_used, None]
        lost = int((~is_used).sum())
        centres[~is_used] = points[torch.randint(len(points), (lost,), generator=generator)]
    return centres

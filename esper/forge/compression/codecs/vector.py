"""Vector quantisation: neighbouring weights as one entry of a codebook, with error feedback (GPTVQ: arXiv 2402.15319)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from esper.errors import CheckpointError
from esper.forge.compression.codec import Statistics, matrix_shape, part
from esper.forge.compression.config import CODECS, VectorConfig
from esper.forge.compression.feedback import factorize, round_with_feedback
from esper.forge.compression.symbols import pack_symbols, unpack_symbols
from esper.tasks.task import named_generator

_LLOYD_STEPS = 12


@CODECS.register("vector", VectorConfig)
class VectorCodec:
    """A scale a row, a codebook a tensor. Columns that fill no whole vector are padded with zeros."""

    def __init__(self, config: VectorConfig) -> None:
        self.dim, self.entries = config.dim, config.entries

    def encode(self, weight: Tensor, statistics: Statistics) -> dict[str, Tensor]:
        """k-means over the scaled vectors, then block after block the entry that costs least."""
        padding = -weight.shape[1] % self.dim
        weight = torch.nn.functional.pad(weight, (0, padding))
        inputs = torch.nn.functional.pad(statistics.inputs, (0, padding, 0, padding))
        scales = weight.square().mean(1).sqrt().half().float().clamp(min=2**-14)[:, None]
        scaled = weight / scales
        cares = (statistics.rows[:, None] * scales.square()).repeat(1, weight.shape[1] // self.dim).flatten()
        codebook = _k_means(scaled.view(-1, self.dim), cares, self.entries).half().float()
        factors = factorize(inputs, self.dim)
        indices = torch.empty(len(weight), weight.shape[1] // self.dim, dtype=torch.uint8)

        def nearest(block: int, target: Tensor) -> Tensor:
            metric = factors.blocks[block]
            away = codebook @ metric
            distances = (away * codebook).sum(1) - 2 * (target / scales) @ away.T  # less what is the same for all
            indices[:, block] = distances.argmin(1)
            return codebook[indices[:, block].int()] * scales

        round_with_feedback(weight, factors, nearest)
        return {
            "indices": pack_symbols(indices.flatten(), self.entries),
            "scales": scales[:, 0].half(),
            "codebook": codebook.flatten().half(),
        }

    def decode(self, payload: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        height, width = matrix_shape(shape)
        blocks = -(-width // self.dim)
        scales = part(payload, "scales", torch.float16, height).float()
        codebook = part(payload, "codebook", torch.float16, self.entries * self.dim).float().view(-1, self.dim)
        indices = unpack_symbols(part(payload, "indices", torch.uint8), height * blocks, self.entries)
        decoded = codebook[indices.int()].view(height, blocks * self.dim)[:, :width] * scales[:, None]
        if not bool(decoded.isfinite().all()):
            raise CheckpointError("a tensor's scales are out of bounds")
        return decoded.contiguous()


def _k_means(points: Tensor, cares: Tensor, entries: int) -> Tensor:
    """Centres [entries, dim] of points [N, dim], each of which counts as much as it is cared for."""
    generator = named_generator(0, "codebook")
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

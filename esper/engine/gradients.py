"""Statistics of gradients, one row a member, straight from the stacks."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

VANISHING_THRESHOLD = 1e-7
EXPLODING_THRESHOLD = 100.0


@dataclass(slots=True)
class GradientStatistics:
    """All [R]. total_norm: sqrt(sum |g|^2); mean_norm: that over the number of tensors; health in [0, 1]."""

    total_norm: Tensor
    mean_norm: Tensor
    health: Tensor
    has_vanishing: Tensor
    has_exploding: Tensor


def row_statistics(gradients: Iterable[Tensor]) -> GradientStatistics:
    """Statistics over tensors [R, ...] of one stack; nothing waits for the device."""
    norms = torch.stack([grad.flatten(1).norm(dim=1) for grad in gradients])  # [P, R]
    total = norms.square().sum(0).sqrt()
    vanishing, exploding = norms < VANISHING_THRESHOLD, norms > EXPLODING_THRESHOLD
    health = 1 - 0.5 * vanishing.to(norms.dtype).mean(0) - 0.8 * exploding.to(norms.dtype).mean(0)
    return GradientStatistics(total, total / len(norms), health.clamp(0, 1), vanishing.any(0), exploding.any(0))

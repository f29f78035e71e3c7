"""What the norms of gradients say about the health of a seed. The one place where that is decided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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


def gradient_statistics(
    norms: Tensor,
    vanishing_threshold: float = VANISHING_THRESHOLD,
    exploding_threshold: float = EXPLODING_THRESHOLD,
) -> GradientStatistics:
    """Statistics of P tensors' gradient norms, apart for each of R members. Nothing waits for the device.

    A norm that is not finite counts as exploding. Args: norms [P, R], P >= 1.
    """
    total = norms.square().sum(0).sqrt()
    vanishing, exploding = norms < vanishing_threshold, ~(norms <= exploding_threshold)
    health = 1 - 0.5 * vanishing.to(norms.dtype).mean(0) - 0.8 * exploding.to(norms.dtype).mean(0)
    return GradientStatistics(total, total / len(norms), health.clamp(0, 1), vanishing.any(0), exploding.any(0))

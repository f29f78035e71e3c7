"""Gradient statistics of one seed's parameters, as its telemetry carries them."""

from collections.abc import Iterable
from typing import TypedDict

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors

from esper.leyline.gradients import EXPLODING_THRESHOLD, VANISHING_THRESHOLD, gradient_statistics


class SeedGradients(TypedDict):
    """gradient_norm: sqrt(sum |g|^2) over the number of tensors; gradient_health in [0, 1]."""

    gradient_norm: float
    gradient_health: float
    has_vanishing: bool
    has_exploding: bool


class SeedGradientCollector:
    """Collects after `backward()` (and unscaling), before the optimizer's step.

    Thresholds are norms of one tensor's gradient: below the first it vanishes, above the second it explodes.
    """

    def __init__(
        self, vanishing_threshold: float = VANISHING_THRESHOLD, exploding_threshold: float = EXPLODING_THRESHOLD
    ) -> None:
        self.vanishing_threshold = vanishing_threshold
        self.exploding_threshold = exploding_threshold

    def collect(self, parameters: Iterable[Tensor]) -> SeedGradients:
        """Statistics over the parameters that have a gradient; 0.0, 1.0, False, False where none has."""
        return collect_seed_gradients(parameters, self.vanishing_threshold, self.exploding_threshold)


def collect_seed_gradients(
    parameters: Iterable[Tensor],
    vanishing_threshold: float = VANISHING_THRESHOLD,
    exploding_threshold: float = EXPLODING_THRESHOLD,
) -> SeedGradients:
    """Statistics over the parameters (on one device) that have a gradient. Waits for the device once."""
    gradients = [gradient for parameter in parameters if (gradient := parameter.grad) is not None]
    if not gradients:
        return SeedGradients(gradient_norm=0.0, gradient_health=1.0, has_vanishing=False, has_exploding=False)
    found = gradient_statistics(_norms(gradients).unsqueeze(1), vanishing_threshold, exploding_threshold)
    figures = (found.mean_norm, found.health, found.has_vanishing, found.has_exploding)
    norm, health, vanishing, exploding = torch.cat([figure.double() for figure in figures]).tolist()
    return SeedGradients(
        gradient_norm=norm, gradient_health=health, has_vanishing=bool(vanishing), has_exploding=bool(exploding)
    )


def _norms(gradients: list[Tensor]) -> Tensor:
    """[P], float64. Joined first: copying many small tensors costs less than a call for each."""
    squares = _flatten_dense_tensors(gradients).double().square_()
    lengths = torch.tensor([gradient.numel() for gradient in gradients], device=squares.device)
    return torch.segment_reduce(squares, "sum", lengths=lengths, unsafe=True).sqrt()

"""How a seed's share of the output rises from 0 to 1, and what keeps its output near the host's."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from esper.checks import QUOTED, did_you_mean
from esper.errors import ConfigError

BLEND_ALGORITHMS = ("linear", "sigmoid", "gated")
_STEEPNESS = 10.0
BOUND_EPS = 1e-6


def check_blend_algorithm(algorithm_id: str) -> None:
    """Raises: ConfigError when there is no such blend."""
    if algorithm_id not in BLEND_ALGORITHMS:
        hint = did_you_mean(algorithm_id, BLEND_ALGORITHMS, QUOTED)
        raise ConfigError(
            f"blend algorithm {algorithm_id!r} is unknown: choose one of {', '.join(BLEND_ALGORITHMS)}{hint}"
        )


@dataclass(frozen=True, slots=True)
class AlphaSchedule:
    """The ramp of alpha from `start` to `end` over `total_steps` training steps (minibatches)."""

    algorithm_id: str
    total_steps: int
    start: float = 0.0
    end: float = 1.0

    def alpha_at(self, step: int) -> float:
        """Alpha after `step` training steps of this ramp; `end` exactly from `total_steps` on."""
        if step >= self.total_steps:
            return self.end
        progress = max(step, 0) / self.total_steps
        share = _logistic(progress) if self.algorithm_id == "sigmoid" else progress
        return self.start + (self.end - self.start) * share


def _logistic(progress: float) -> float:
    """The logistic curve, shifted and scaled to run from 0 at 0 to 1 at 1."""
    low, high = _sigmoid(-_STEEPNESS / 2), _sigmoid(_STEEPNESS / 2)
    return (_sigmoid(_STEEPNESS * (progress - 0.5)) - low) / (high - low)


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


class BlendGate(nn.Module):
    """Lets each sample run ahead of the ramp or behind it: a = p + 2p(1-p)(g - 1/2), g = sigmoid(linear(mean h)).

    by_token: each token has an alpha of its own, g = sigmoid(linear(h)): a mean would show it the tokens to come.
    Zero-initialised, so that a = p at first; a stays within [0, 1] and is p wherever p is 0 or 1.
    """

    def __init__(self, channels: int, by_token: bool = False) -> None:
        super().__init__()
        self.by_token = by_token
        self.linear = nn.Linear(channels, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor, ramp: float) -> Tensor:
        """Alpha of each sample or token.

        Args: features [B, C, ...] or, by token, [B, T, C]; ramp: p in [0, 1]. Returns: [B, 1, ...] or [B, T, 1].
        """
        if self.by_token:
            gate = torch.sigmoid(self.linear(features))
        else:
            over = tuple(range(2, features.dim()))
            logits = self.linear(features.mean(over) if over else features)
            gate = torch.sigmoid(logits).view(-1, *(1,) * (features.dim() - 1))
        return ramp + 2.0 * ramp * (1.0 - ramp) * (gate - 0.5)


@torch.fx.wrap
def bound_residual(x: Tensor, delta: Tensor, max_ratio: float = 1.0, by_token: bool = False) -> Tensor:
    """x plus delta, shrunk smoothly so that its norm stays below max_ratio times that of x, sample by sample.

    by_token: token by token, as a norm over T would show a token those to come. Near delta = 0 it is plain addition,
    so a zero-initialised branch gets its full gradient.

    Args: x, delta [B, C, ...] or, by token, [B, T, C]. Returns: the same shape.
    """
    dims = (-1,) if by_token else tuple(range(1, x.dim()))
    delta_square = delta.square().sum(dims, keepdim=True)
    x_square = x.square().sum(dims, keepdim=True)
    ratio_square = delta_square / (max_ratio**2 * x_square + BOUND_EPS)
    return x + delta * torch.rsqrt(1.0 + ratio_square)

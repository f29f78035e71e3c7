"""Keeping a seed from disturbing the host: straight-through output, guarded gradients, a monitor."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm


def ste_update(seed_features: Tensor) -> Tensor:
    """Zero in value, the identity in gradient. Args: seed_features [B, ...]."""
    return seed_features - seed_features.detach()


def blend_update(host_features: Tensor, seed_features: Tensor, alpha: float | Tensor) -> Tensor:
    """What blending adds to the host's features. Args: both [B, ...]; alpha: a number or [B, 1, ...]."""
    return alpha * (seed_features - host_features)


def ste_forward(host_features: Tensor, seed_features: Tensor) -> Tensor:
    """The host's features in value; the gradient reaches host and seed as if they were added (straight-through).

    Args: both [B, ...]. Source: Bengio et al. 2013, arXiv:1308.3432.
    """
    return host_features + ste_update(seed_features)


def blend_with_isolation(
    host_features: Tensor, seed_features: Tensor, alpha: float | Tensor, detach_host: bool = False
) -> Tensor:
    """(1 - alpha) host + alpha seed; with `detach_host` no gradient reaches `host_features`.

    Args: both [B, ...]; alpha: a number or [B, 1, ...].
    """
    host = host_features.detach() if detach_host else host_features
    return host + blend_update(host, seed_features, alpha)


class _FiniteGradient(torch.autograd.Function):
    """The identity whose gradient is dropped whole when any element of it is not finite."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        return torch.where(gradient.isfinite().all(), gradient, 0.0)


def guard_gradient(features: Tensor) -> Tensor:
    """The same features; a gradient that comes back not finite is replaced by zero. Args: features [B, ...]."""
    return _FiniteGradient.apply(features)


def keep_finite(update: Tensor) -> tuple[Tensor, Tensor]:
    """The update, or zeros in value and gradient when any element is not finite; and which it was.

    Args: update [B, ...]. Returns: [B, ...] and a 0-d bool tensor (nothing waits for the device).
    """
    is_finite = update.detach().isfinite().all()
    return torch.where(is_finite, update, 0.0), is_finite


def reaches_upstream(slot: nn.Module, features: Tensor) -> bool:
    """Whether gradient comes to the slot's input on more ways than the host's own, which passes it on as it is.

    Args: slot: in evaluation mode; features [B, ...], B > 1: to try it on.
    """
    given, flowing = features.detach().requires_grad_(), features.flip(0)
    with torch.enable_grad():
        (arriving,) = torch.autograd.grad(slot(given), given, flowing)
    return not torch.equal(arriving, flowing)


class GradientIsolationMonitor:
    """Checks, after a backward pass through the seed's path alone, that no gradient reached the host."""

    def __init__(self, threshold: float = 1e-6) -> None:
        self.threshold = threshold
        self.violations = 0
        self._host_parameters: list[nn.Parameter] = []
        self._seed_parameters: list[nn.Parameter] = []

    def register(self, host: nn.Module, seed: nn.Module) -> None:
        """Watch these two from now on (a seed's own parameters never count as the host's)."""
        self._seed_parameters = list(seed.parameters())
        own = {id(parameter) for parameter in self._seed_parameters}
        self._host_parameters = [parameter for parameter in host.parameters() if id(parameter) not in own]

    def check_isolation(self) -> tuple[bool, dict[str, Any]]:
        """Whether the host's gradient norm is below the threshold, with the figures; waits for the device twice."""
        host_norm = _gradient_norm(self._host_parameters)
        seed_norm = _gradient_norm(self._seed_parameters)
        is_isolated = host_norm < self.threshold
        self.violations += not is_isolated
        return is_isolated, {
            "host_grad_norm": host_norm,
            "seed_grad_norm": seed_norm,
            "isolated": is_isolated,
            "violations": self.violations,
        }


def _gradient_norm(parameters: list[nn.Parameter]) -> float:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return get_total_norm(gradients).item() if gradients else 0.0

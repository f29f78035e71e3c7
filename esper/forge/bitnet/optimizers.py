"""Muon, and the filter of slow gradients that Grokfast is."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_RMS_OF_ADAM = 0.2


def orthogonalize(matrix: Tensor) -> Tensor:
    """About the nearest semi-orthogonal matrix: its singular values come near 1 (0.7 to 1.2), all else stays.

    Args: matrix [O, I]. Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks", whose
    quintic Newton-Schulz iteration this is.
    """
    a, b, c = _COEFFICIENTS
    x = matrix / (matrix.norm() + 1e-7)
    x = x.mT if matrix.shape[0] > matrix.shape[1] else x
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised, for the matrices of hidden layers (Jordan et al. 2024).

    Updates are as large as AdamW's are (root mean square 0.2), so that both share a learning rate: Liu et al. 2025,
    "Muon is scalable for LLM training", arXiv 2502.16982.

    Args: lr, weight_decay: as AdamW's; momentum: of the running gradient, looked ahead as Nesterov's is.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float = 0.0, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move every matrix that has a gradient; a closure, which torch's optimizers may take, is not called."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                running = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonalize(torch.lerp(parameter.grad, running, group["momentum"]))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * _RMS_OF_ADAM * max(parameter.shape) ** 0.5)


class GradientFilter:
    """Adds to every gradient its own slow part, a running mean (Grokfast-EMA: Lee et al. 2024, arXiv 2405.20233).

    Args: decay: of the running mean; gain: how much of it is added.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float = 0.98, gain: float = 2.0) -> None:
        self._parameters, self._decay, self._gain = parameters, decay, gain
        self.means: dict[str, Tensor] = {}

    @torch.no_grad()
    def apply(self) -> None:
        """Filter the gradients as they are now, in place. The first ones are the running mean's first values."""
        for name, parameter in self._parameters.items():
            if parameter.grad is None:
                continue
            if name in self.means:
                self.means[name].lerp_(parameter.grad, 1 - self._decay)
            else:
                self.means[name] = parameter.grad.clone()
            parameter.grad.add_(self.means[name], alpha=self._gain)


@torch.no_grad()
def even_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Scale every layer's gradient, in place, to the mean of their root mean squares."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    sizes = torch.stack([gradient.square().mean().sqrt() for gradient in gradients])
    for gradient, size in zip(gradients, sizes, strict=True):
        gradient.mul_(sizes.mean() / size.clamp(min=1e-12))

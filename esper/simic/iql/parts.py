"""What IQL is made of: its network, and the formulas of its losses."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

LARGEST_WEIGHT = 100.0


def expectile_loss(differences: Tensor, tau: float) -> Tensor:
    """|tau - 1(u < 0)| u^2 of each difference u = q - v: above tau = 0.5, v leans to the better outcomes."""
    return torch.where(differences < 0, 1 - tau, tau) * differences.square()


def advantage_weights(advantages: Tensor, beta: float) -> Tensor:
    """exp(beta A), at most 100: how much an action is imitated. At beta = 0 all alike (behaviour cloning)."""
    return (beta * advantages).exp().clamp(max=LARGEST_WEIGHT)


class Network(nn.Module):
    """Linear layers with ReLU between them, in `net`: [B, sizes[0]] -> [B, sizes[-1]]."""

    def __init__(self, sizes: Sequence[int], generator: torch.Generator) -> None:
        super().__init__()
        self.net = nn.Sequential()
        for inputs, outputs in pairwise(sizes):
            if len(self.net):
                self.net.append(nn.ReLU())
            layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
            for parameter in layer.parameters():
                parameter.data.uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)
            self.net.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        """Args: x [B, sizes[0]]."""
        return self.net(x)


def masked_log_softmax(logits: Tensor, masks: Tensor | None) -> Tensor:
    """Log-probabilities [B, A] of logits [B, A], -inf where masks [B, A] are False."""
    return (logits if masks is None else logits.masked_fill(~masks, -torch.inf)).log_softmax(1)

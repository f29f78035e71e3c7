"""What every blueprint is made of: the features plus a bounded residual that starts at zero.

The last layer of the residual branch is zero and has neither norm nor activation behind it: the seed is born as the
identity, and its last layer has a gradient at the first step, every other one at the second.
"""

from torch import Tensor, nn

from esper.kasmina import blending


class ResidualSeed(nn.Module):
    """x + body(x), the second bounded to `max_ratio` times the norm of the first: see `bound_residual`."""

    def __init__(self, body: nn.Module, max_ratio: float, by_token: bool = False) -> None:
        super().__init__()
        self.body = body
        self.max_ratio = max_ratio
        self.by_token = by_token

    def forward(self, x: Tensor) -> Tensor:
        """Args: x [B, C, ...] or, by token, [B, T, C]. Returns: the same shape."""
        # Called through its module, where it is marked as a leaf for torch.fx.
        return blending.bound_residual(x, self.body(x), self.max_ratio, self.by_token)


def zeroed(layer: nn.Module) -> nn.Module:
    """The layer with every parameter set to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer

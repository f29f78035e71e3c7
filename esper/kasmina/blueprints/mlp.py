"""Seeds for hosts of linear layers, [B, C] -> [B, C]; each works on features that are normed sample by sample."""

from torch import Tensor, nn

from esper.kasmina.blueprints.registry import BlueprintRegistry
from esper.kasmina.blueprints.residual import ResidualSeed, zeroed

_MIN_HIDDEN = 4


class GatedUnits(nn.Module):
    """Linear units, each times a gate of its own, SiLU(linear(x)) (after Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.value = nn.Linear(dim, hidden)
        self.gate = nn.Linear(dim, hidden)
        self.activation = nn.SiLU()
        self.out = zeroed(nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Args: x [B, C]. Returns: [B, C]."""
        return self.out(self.value(x) * self.activation(self.gate(x)))


def _two_layers(dim: int, hidden: int, max_ratio: float) -> nn.Module:
    layers = [nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), zeroed(nn.Linear(hidden, dim))]
    return ResidualSeed(nn.Sequential(*layers), max_ratio)


@BlueprintRegistry.register("norm", "mlp", param_estimate=128, description="layer norm")
def build_norm(dim: int, max_ratio: float = 1.0) -> nn.Module:
    """Layer norm of the features, with a scale and shift that start at zero."""
    return ResidualSeed(zeroed(nn.LayerNorm(dim)), max_ratio)


@BlueprintRegistry.register("bottleneck", "mlp", param_estimate=2256, description="linear to a quarter, GELU, back")
def build_bottleneck(dim: int, max_ratio: float = 1.0) -> nn.Module:
    """Two linear layers, a quarter as wide between."""
    return _two_layers(dim, max(dim // 4, _MIN_HIDDEN), max_ratio)


@BlueprintRegistry.register(
    "gated", "mlp", param_estimate=6400, description="half the width, gated", family="attention"
)
def build_gated(dim: int, max_ratio: float = 1.0) -> nn.Module:
    """Gated units, half as many as the features."""
    return ResidualSeed(nn.Sequential(nn.LayerNorm(dim), GatedUnits(dim, max(dim // 2, _MIN_HIDDEN))), max_ratio)


@BlueprintRegistry.register("hidden", "mlp", param_estimate=8448, description="two linear layers, GELU")
def build_hidden(dim: int, max_ratio: float = 1.0) -> nn.Module:
    """Two linear layers of the features' width."""
    return _two_layers(dim, dim, max_ratio)


@BlueprintRegistry.register("wide", "mlp", param_estimate=33_216, description="two linear layers, 4 times wider")
def build_wide(dim: int, max_ratio: float = 1.0) -> nn.Module:
    """Two linear layers, four times as wide between."""
    return _two_layers(dim, 4 * dim, max_ratio)

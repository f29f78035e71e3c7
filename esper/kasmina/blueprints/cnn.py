"""Seeds for convolutional hosts, [B, C, H, W] -> [B, C, H, W]."""

from torch import Tensor, nn

from esper.kasmina.blueprints.registry import BlueprintRegistry
from esper.kasmina.blueprints.residual import ResidualSeed, zeroed

_MIN_HIDDEN_CHANNELS = 4


class SqueezeExcite(nn.Module):
    """x times a weight in (-1, 1) for each channel, from the channel means (after Hu et al. 2018, arXiv:1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = _hidden(channels)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.activation = nn.Sigmoid()  # a ReLU over so few units may start, and stay, dead
        self.excite = zeroed(nn.Conv2d(hidden, channels, 1))
        self.weight = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Args: x [B, C, H, W]. Returns: [B, C, H, W]."""
        weight = self.weight(self.excite(self.activation(self.squeeze(self.pool(x)))))  # [B, C, 1, 1]
        return x * (weight * 2.0 + -1.0)


def _hidden(channels: int) -> int:
    return max(channels // 4, _MIN_HIDDEN_CHANNELS)


def _norm_relu_conv(channels_in: int, channels_out: int, kernel: int, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, groups=groups, bias=False)
    return [nn.BatchNorm2d(channels_in, momentum=0.1), nn.ReLU(), conv]


def _residual(max_ratio: float, *layers: nn.Module) -> ResidualSeed:
    """The layers as a residual branch; the last one, a convolution, is set to zero."""
    zeroed(layers[-1])
    return ResidualSeed(nn.Sequential(*layers), max_ratio)


@BlueprintRegistry.register("norm", "cnn", param_estimate=128, description="batch norm", family="norm")
def build_norm(dim: int, max_ratio: float = 1.0) -> nn.Module:
    """Batch norm of the features, with a scale and shift that start at zero."""
    return ResidualSeed(zeroed(nn.BatchNorm2d(dim, momentum=0.1)), max_ratio)


@BlueprintRegistry.register(
    "attention", "cnn", param_estimate=2128, description="squeeze-excite channel attention", family="attention"
)
def build_attention(dim: int, max_ratio: float = 1.0) -> nn.Module:
    """Channel attention."""
    return ResidualSeed(SqueezeExcite(dim), max_ratio)


@BlueprintRegistry.register("conv_small", "cnn", param_estimate=4224, description="one 1x1 convolution")
def build_conv_small(dim: int, max_ratio: float = 1.0) -> nn.Module:
    """One 1x1 convolution."""
    return _residual(max_ratio, *_norm_relu_conv(dim, dim, 1))


@BlueprintRegistry.register("bottleneck", "cnn", param_estimate=4544, description="1x1 down to a quarter, 3x3, 1x1 up")
def build_bottleneck(dim: int, max_ratio: float = 1.0) -> nn.Module:
    """A 3x3 convolution on a quarter of the channels."""
    hidden = _hidden(dim)
    return _residual(
        max_ratio,
        *_norm_relu_conv(dim, hidden, 1),
        *_norm_relu_conv(hidden, hidden, 3),
        *_norm_relu_conv(hidden, dim, 1),
    )


@BlueprintRegistry.register(
    "depthwise", "cnn", param_estimate=4928, description="3x3 depthwise, then 1x1", family="depthwise"
)
def build_depthwise(dim: int, max_ratio: float = 1.0) -> nn.Module:
    """A depthwise separable convolution."""
    return _residual(max_ratio, *_norm_relu_conv(dim, dim, 3, groups=dim), *_norm_relu_conv(dim, dim, 1))


@BlueprintRegistry.register("conv_light", "cnn", param_estimate=36_992, description="one 3x3 convolution")
def build_conv_light(dim: int, max_ratio: float = 1.0) -> nn.Module:
    """One 3x3 convolution."""
    return _residual(max_ratio, *_norm_relu_conv(dim, dim, 3))


@BlueprintRegistry.register("conv_enhance", "cnn", param_estimate=41_216, description="3x3, then 1x1 convolution")
def build_conv_enhance(dim: int, max_ratio: float = 1.0) -> nn.Module:
    """A 3x3 convolution, mixed again by a 1x1."""
    return _residual(max_ratio, *_norm_relu_conv(dim, dim, 3), *_norm_relu_conv(dim, dim, 1))


@BlueprintRegistry.register("conv_heavy", "cnn", param_estimate=73_984, description="two 3x3 convolutions")
def build_conv_heavy(dim: int, max_ratio: float = 1.0) -> nn.Module:
    """Two 3x3 convolutions."""
    return _residual(max_ratio, *_norm_relu_conv(dim, dim, 3), *_norm_relu_conv(dim, dim, 3))

"""Seeds for hosts of 1-D convolutions, [B, C, L] -> [B, C, L]: those of images, along one dimension."""

import functools

from torch import nn

from esper.kasmina.blueprints.convolution import SERIES, SqueezeExcite, hidden_channels, norm_relu_conv, residual
from esper.kasmina.blueprints.registry import BlueprintRegistry
from esper.kasmina.blueprints.residual import ResidualSeed, zeroed

_conv = functools.partial(norm_relu_conv, layers=SERIES)


@BlueprintRegistry.register("norm", "cnn1d", param_estimate=128, description="batch norm")
def build_norm(dim: int, max_ratio: float = 1.0) -> nn.Module:
    """Batch norm of the features, with a scale and shift that start at zero."""
    return ResidualSeed(zeroed(nn.BatchNorm1d(dim, momentum=0.1)), max_ratio)


@BlueprintRegistry.register("attention", "cnn1d", param_estimate=2128, description="squeeze-excite channel attention")
def build_attention(dim: int, max_ratio: float = 1.0) -> nn.Module:
    """Channel attention."""
    return ResidualSeed(SqueezeExcite(dim, SERIES), max_ratio)


@BlueprintRegistry.register("bottleneck", "cnn1d", param_estimate=3008, description="1 down to a quarter, 3, 1 up")
def build_bottleneck(dim: int, max_ratio: float = 1.0) -> nn.Module:
    """A convolution of 3 positions on a quarter of the channels."""
    hidden = hidden_channels(dim)
    return residual(max_ratio, *_conv(dim, hidden, 1), *_conv(hidden, hidden, 3), *_conv(hidden, dim, 1))


@BlueprintRegistry.register("conv_small", "cnn1d", param_estimate=4224, description="a convolution of one position")
def build_conv_small(dim: int, max_ratio: float = 1.0) -> nn.Module:
    """Channels mixed position by position."""
    return residual(max_ratio, *_conv(dim, dim, 1))


@BlueprintRegistry.register("depthwise", "cnn1d", param_estimate=4544, description="3 depthwise, then 1")
def build_depthwise(dim: int, max_ratio: float = 1.0) -> nn.Module:
    """A depthwise separable convolution."""
    return residual(max_ratio, *_conv(dim, dim, 3, groups=dim), *_conv(dim, dim, 1))


@BlueprintRegistry.register("conv_light", "cnn1d", param_estimate=12_416, description="a convolution of 3 positions")
def build_conv_light(dim: int, max_ratio: float = 1.0) -> nn.Module:
    """One convolution of 3 positions."""
    return residual(max_ratio, *_conv(dim, dim, 3))


@BlueprintRegistry.register("conv_enhance", "cnn1d", param_estimate=16_640, description="3, then 1")
def build_conv_enhance(dim: int, max_ratio: float = 1.0) -> nn.Module:
    """A convolution of 3 positions, mixed again position by position."""
    return residual(max_ratio, *_conv(dim, dim, 3), *_conv(dim, dim, 1))


@BlueprintRegistry.register("conv_heavy", "cnn1d", param_estimate=24_832, description="two convolutions of 3 positions")
def build_conv_heavy(dim: int, max_ratio: float = 1.0) -> nn.Module:
    """Two convolutions of 3 positions."""
    return residual(max_ratio, *_conv(dim, dim, 3), *_conv(dim, dim, 3))

"""Seeds for convolutional hosts, [B, C, H, W] -> [B, C, H, W]."""

from torch import nn

from esper.kasmina.blueprints.convolution import SqueezeExcite, hidden_channels, norm_relu_conv, residual
from esper.kasmina.blueprints.registry import BlueprintRegistry
from esper.kasmina.blueprints.residual import ResidualSeed, zeroed


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
    return residual(max_ratio, *norm_relu_conv(dim, dim, 1))


@BlueprintRegistry.register("bottleneck", "cnn", param_estimate=4544, description="1x1 down to a quarter, 3x3, 1x1 up")
def build_bottleneck(dim: int, max_ratio: float = 1.0) -> nn.Module:
    """A 3x3 convolution on a quarter of the channels."""
    hidden = hidden_channels(dim)
    return residual(
        max_ratio,
        *norm_relu_conv(dim, hidden, 1),
        *norm_relu_conv(hidden, hidden, 3),
        *norm_relu_conv(hidden, dim, 1),
    )


@BlueprintRegistry.register(
    "depthwise", "cnn", param_estimate=4928, description="3x3 depthwise, then 1x1", family="depthwise"
)
def build_depthwise(dim: int, max_ratio: float = 1.0) -> nn.Module:
    """A depthwise separable convolution."""
    return residual(max_ratio, *norm_relu_conv(dim, dim, 3, groups=dim), *norm_relu_conv(dim, dim, 1))


@BlueprintRegistry.register("conv_light", "cnn", param_estimate=36_992, description="one 3x3 convolution")
def build_conv_light(dim: int, max_ratio: float = 1.0) -> nn.Module:
    """One 3x3 convolution."""
    return residual(max_ratio, *norm_relu_conv(dim, dim, 3))


@BlueprintRegistry.register("conv_enhance", "cnn", param_estimate=41_216, description="3x3, then 1x1 convolution")
def build_conv_enhance(dim: int, max_ratio: float = 1.0) -> nn.Module:
    """A 3x3 convolution, mixed again by a 1x1."""
    return residual(max_ratio, *norm_relu_conv(dim, dim, 3), *norm_relu_conv(dim, dim, 1))


@BlueprintRegistry.register("conv_heavy", "cnn", param_estimate=73_984, description="two 3x3 convolutions")
def build_conv_heavy(dim: int, max_ratio: float = 1.0) -> nn.Module:
    """Two 3x3 convolutions."""
    return residual(max_ratio, *norm_relu_conv(dim, dim, 3), *norm_relu_conv(dim, dim, 3))

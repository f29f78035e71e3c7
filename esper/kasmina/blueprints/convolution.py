"""What seeds of convolutions are made of, in two dimensions (images) or one (sequences that lie channels first)."""

from typing import NamedTuple

from torch import Tensor, nn

from esper.kasmina.blueprints.residual import ResidualSeed, zeroed

_MIN_HIDDEN_CHANNELS = 4


class Layers(NamedTuple):
    """The layers of so many dimensions."""

    conv: type[nn.Conv1d | nn.Conv2d]
    norm: type[nn.BatchNorm1d | nn.BatchNorm2d]
    mean: type[nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d]


IMAGES = Layers(nn.Conv2d, nn.BatchNorm2d, nn.AdaptiveAvgPool2d)
SERIES = Layers(nn.Conv1d, nn.BatchNorm1d, nn.AdaptiveAvgPool1d)


class SqueezeExcite(nn.Module):
    """x times a weight in (-1, 1) for each channel, from the channel means (after Hu et al. 2018, arXiv:1709.01507)."""

    def __init__(self, channels: int, layers: Layers = IMAGES) -> None:
        super().__init__()
        hidden = hidden_channels(channels)
        self.pool = layers.mean(1)
        self.squeeze = layers.conv(channels, hidden, 1)
        self.activation = nn.Sigmoid()  # a ReLU over so few units may start, and stay, dead
        self.excite = zeroed(layers.conv(hidden, channels, 1))
        self.weight = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Args: x [B, C, H, W] or [B, C, L]. Returns: the same shape."""
        weight = self.weight(self.excite(self.activation(self.squeeze(self.pool(x)))))  # [B, C, 1, 1] or [B, C, 1]
        return x * (weight * 2.0 + -1.0)


def hidden_channels(channels: int) -> int:
    """Of a bottleneck."""
    return max(channels // 4, _MIN_HIDDEN_CHANNELS)


def norm_relu_conv(
    channels_in: int, channels_out: int, kernel: int, groups: int = 1, layers: Layers = IMAGES
) -> list[nn.Module]:
    """A convolution that keeps the size, of what was normed and cut off at zero."""
    conv = layers.conv(channels_in, channels_out, kernel, padding=kernel // 2, groups=groups, bias=False)
    return [layers.norm(channels_in, momentum=0.1), nn.ReLU(), conv]


def residual(max_ratio: float, *layers: nn.Module) -> ResidualSeed:
    """The layers as a residual branch; the last one, a convolution, is set to zero."""
    zeroed(layers[-1])
    return ResidualSeed(nn.Sequential(*layers), max_ratio)

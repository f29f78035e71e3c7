"""The residual host."""

import torch
from torch import Tensor, nn

from esper.errors import ConfigError
from esper.kasmina.base import Host
from esper.kasmina.seeding import default_generator, weights_from

STAGES = 3


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, added to what came in; where the shape changes, that goes through a 1x1 convolution."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_conv_norm(channels_in, channels_out, 3, stride), nn.ReLU(), *_conv_norm(channels_out, channels_out, 3, 1)
        )
        is_same = stride == 1 and channels_in == channels_out
        self.shortcut = nn.Sequential() if is_same else nn.Sequential(*_conv_norm(channels_in, channels_out, 1, stride))
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Args: x [B, C, H, W]. Returns: [B, C', H / stride, W / stride], rounded up."""
        return self.activation(self.body(x) + self.shortcut(x))


class ResNetHost(Host):
    """A residual classifier for small images (He et al. 2015, arXiv:1512.03385, section 4.2).

    A 3x3 convolution, then three stages of residual blocks, each after the first of half the size and twice the width;
    global mean, linear. Every stage ends in a slot position, "stage1" the first, that is the identity until a model
    puts a slot there.

    Args: num_classes; depth: 6n + 2, layers with weights; width: channels of the first stage; in_channels: C of the
    images; generator: draws the initial weights (None: fixed by torch's seed). Raises: ConfigError on another depth.
    """

    topology = "cnn"

    def __init__(
        self,
        num_classes: int = 10,
        depth: int = 8,
        width: int = 16,
        in_channels: int = 3,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ConfigError(f"host.depth={depth}: must be 6n + 2, such as 8, 14 or 20")
        widths = [width * 2**stage for stage in range(STAGES)]
        with weights_from(generator or default_generator("host")):
            self.stem = nn.Sequential(*_conv_norm(in_channels, width, 3, 1), nn.ReLU())
            self.stages = nn.ModuleList(
                _stage(before, channels, 1 if number == 0 else 2, depth // 6)
                for number, (before, channels) in enumerate(zip((width, *widths), widths, strict=False))
            )
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.flatten = nn.Flatten()
            self.head = nn.Linear(widths[-1], num_classes)
        self.injection_points = {f"stage{i}": channels for i, channels in enumerate(widths, start=1)}
        self._slot_keys = tuple(self.injection_points)
        self.slots = nn.ModuleDict({key: nn.Identity() for key in self._slot_keys})

    def upstream(self, position: str) -> tuple[nn.Module, ...]:
        """The stage before the slot."""
        return (self.stages[self._slot_keys.index(position)],)

    def forward(self, x: Tensor) -> Tensor:
        """Args: x [B, C, H, W]. Returns: logits [B, num_classes]."""
        x = self.stem(x)
        for stage, key in zip(self.stages, self._slot_keys, strict=True):
            x = self.slots[key](stage(x))
        return self.head(self.flatten(self.pool(x)))


def _stage(channels_in: int, channels_out: int, stride: int, count: int) -> nn.Sequential:
    first = BasicBlock(channels_in, channels_out, stride)
    return nn.Sequential(first, *(BasicBlock(channels_out, channels_out, 1) for _ in range(count - 1)))


def _conv_norm(channels_in: int, channels_out: int, kernel: int, stride: int) -> tuple[nn.Module, nn.Module]:
    conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False)
    return conv, nn.BatchNorm2d(channels_out, momentum=0.1)

"""The convolutional host."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from esper.errors import ConfigError
from esper.kasmina.base import Host
from esper.kasmina.seeding import default_generator, weights_from

_FIRST_WIDTH = 32


class CNNHost(Host):
    """A plain convolutional classifier: blocks of conv 3x3, batch norm, ReLU (and max pool), global mean, linear.

    Every block ends in a slot position, "block1" the first, that is the identity until a model puts a slot there.

    Args: num_classes; n_blocks; in_channels: C of the images; channels: width of each block (default: 32, doubling);
    pool: whether each block halves height and width (default: all but the last); generator: draws the initial weights
    (None: fixed by torch's seed). Raises: ConfigError when `channels` or `pool` do not have one entry a block.
    Images must not be smaller than the pools ask for: 4x4 by default.
    """

    topology = "cnn"

    def __init__(
        self,
        num_classes: int = 10,
        n_blocks: int = 3,
        in_channels: int = 3,
        channels: Sequence[int] | None = None,
        pool: Sequence[bool] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if n_blocks < 1:
            raise ConfigError(f"host.n_blocks={n_blocks}: must be at least 1")
        widths = tuple(_FIRST_WIDTH * 2**i for i in range(n_blocks)) if channels is None else tuple(channels)
        pools = (*[True] * (n_blocks - 1), False) if pool is None else tuple(pool)
        for name, values in (("channels", widths), ("pool", pools)):
            if len(values) != n_blocks:
                raise ConfigError(f"host.{name}={list(values)}: host.n_blocks={n_blocks} asks for one entry a block")
        with weights_from(generator or default_generator("host")):
            self.blocks = nn.ModuleList(
                _block(before, width, is_pooled)
                for before, width, is_pooled in zip((in_channels, *widths), widths, pools, strict=False)
            )
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.flatten = nn.Flatten()
            self.head = nn.Linear(widths[-1], num_classes)
        self.injection_points = {f"block{i}": width for i, width in enumerate(widths, start=1)}
        self._slot_keys = tuple(self.injection_points)
        self.slots = nn.ModuleDict({key: nn.Identity() for key in self._slot_keys})

    def upstream(self, position: str) -> tuple[nn.Module, ...]:
        """The block before the slot."""
        return (self.blocks[self._slot_keys.index(position)],)

    def forward(self, x: Tensor) -> Tensor:
        """Args: x [B, C, H, W]. Returns: logits [B, num_classes]."""
        for block, key in zip(self.blocks, self._slot_keys, strict=True):
            x = self.slots[key](block(x))
        return self.head(self.flatten(self.pool(x)))


def _block(channels_in: int, channels_out: int, is_pooled: bool) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out, momentum=0.1),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if is_pooled else []))

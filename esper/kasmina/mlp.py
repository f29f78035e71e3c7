"""The host of linear layers."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from esper.errors import ConfigError
from esper.kasmina.base import Host
from esper.kasmina.seeding import default_generator, weights_from


class MLPHost(Host):
    """A classifier of blocks of linear layer, layer norm and ReLU, and a linear layer behind them.

    Every block ends in a slot position, "block1" the first, that is the identity until a model puts a slot there.

    Args: num_classes; in_features: numbers of an example, however they lie; widths: of each block; generator: draws the
    initial weights (None: fixed by torch's seed). Raises: ConfigError where there is no block, or one without width.
    """

    topology = "mlp"

    def __init__(
        self,
        num_classes: int,
        in_features: int,
        widths: Sequence[int] = (32, 32, 32),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not widths or min(widths) < 1:
            raise ConfigError(f"host.widths={list(widths)}: must be one block or more, of one unit or more")
        with weights_from(generator or default_generator("host")):
            self.flatten = nn.Flatten()
            self.blocks = nn.ModuleList(
                nn.Sequential(nn.Linear(before, width), nn.LayerNorm(width), nn.ReLU())
                for before, width in zip((in_features, *widths), widths, strict=False)
            )
            self.head = nn.Linear(widths[-1], num_classes)
        self.injection_points = {f"block{i}": width for i, width in enumerate(widths, start=1)}
        self._slot_keys = tuple(self.injection_points)
        self.slots = nn.ModuleDict({key: nn.Identity() for key in self._slot_keys})

    def upstream(self, position: str) -> tuple[nn.Module, ...]:
        """The block before the slot."""
        return (self.blocks[self._slot_keys.index(position)],)

    def forward(self, x: Tensor) -> Tensor:
        """Args: x [B, ...], in_features numbers an example. Returns: logits [B, num_classes]."""
        x = self.flatten(x)
        for block, key in zip(self.blocks, self._slot_keys, strict=True):
            x = self.slots[key](block(x))
        return self.head(x)

"""Slots in a network of your own as it stands: the object itself grows, and no copy of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from esper.errors import ConfigError
from esper.kasmina.base import Host, like
from esper.kasmina.graft import GraftedHost

SLOTS = "esper_slots"  # of the network: what it is called is in its state_dict


class _Slots(nn.ModuleDict):
    """Slots by name; as a part of an nn.Sequential, which calls all its parts, the identity."""

    def forward(self, x: Any) -> Any:
        return x


class _ThroughSlot:
    """A forward hook: what the layer gives goes through the slot behind it; of several outputs, the first."""

    def __init__(self, slots: nn.ModuleDict, position: str) -> None:
        self.slots, self.position = slots, position

    def __call__(self, layer: nn.Module, inputs: Any, output: Any) -> Any:
        slot = self.slots[self.position]
        return (slot(output[0]), *output[1:]) if isinstance(output, tuple) else slot(output)


class OwnHost(Host):
    """A network that is to have slots of its own, as the submodule `esper_slots`: they move and are saved with it.

    Nothing is changed in it before `attach`; names and classes of its layers stay as they are even then. Args, raises:
    as of `GraftedHost`.
    """

    is_users_own = True

    def __init__(
        self, module: nn.Module, positions: Mapping[str, str], example: Tensor, topology: str | None = None
    ) -> None:
        super().__init__()
        tried = GraftedHost(module, positions, example, topology=topology)
        self.topology, self.injection_points, self.dtype = tried.topology, tried.injection_points, tried.dtype
        self.slots = _Slots({name: nn.Identity() for name in self.injection_points})
        self.module = module
        self.positions = dict(positions)

    def attach(self) -> None:
        """From here on, calling the network calls what is in its slots."""
        self.module.add_module(SLOTS, self.slots)
        for name, path in self.positions.items():
            self.module.get_submodule(path).register_forward_hook(_ThroughSlot(self.slots, name))

    def upstream(self, position: str) -> tuple[nn.Module, ...]:
        """The submodule that a slot is behind."""
        return (self.module.get_submodule(self.positions[position]),)

    def forward(self, x: Tensor) -> Tensor:
        """What the network itself makes of x, seeds included."""
        return self.module(x)

    def example_input(self, shape: Sequence[int]) -> Tensor:
        """An input of one sample."""
        return torch.zeros(1, *shape, dtype=self.dtype, device=like(self).device)


def check_single(module: nn.Module) -> None:
    """Raises ConfigError where the network is not trained as one module by one process."""
    for path, part in module.named_modules():
        kind = type(part)
        if isinstance(part, nn.DataParallel | nn.parallel.DistributedDataParallel) or "fsdp" in kind.__module__:
            raise ConfigError(
                f"{path or 'the network'} is {kind.__name__}: copies of it would grow apart; give the network inside, "
                "and train it in one process"
            )
    if SLOTS in module._modules:
        raise ConfigError("the network grows already: it has slots of another Grower")

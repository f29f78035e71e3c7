"""The model that lets seeds grow in a host; the hosts themselves are exported from here too."""

from collections.abc import Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from esper.errors import ConfigError
from esper.kasmina.base import Host, like
from esper.kasmina.cnn import CNNHost
from esper.kasmina.copying import copy_network
from esper.kasmina.decoder import Decoder
from esper.kasmina.flops import count_flops
from esper.kasmina.lifecycle import SlotConfig
from esper.kasmina.mlp import MLPHost
from esper.kasmina.python_state import has_own_code
from esper.kasmina.resnet import ResNetHost
from esper.kasmina.seeding import undisturbed_streams
from esper.kasmina.slot import SeedSlot
from esper.kasmina.state import SeedState
from esper.kasmina.transformer import TransformerHost
from esper.kasmina.vit import ViTHost
from esper.leyline import SeedStage, TaskConfig, is_active_stage
from esper.leyline.positions import resolve_slots

__all__ = [
    "CNNHost",
    "Decoder",
    "Host",
    "MLPHost",
    "MorphogeneticModel",
    "ResNetHost",
    "TransformerHost",
    "ViTHost",
    "resolve_slots",
]


class MorphogeneticModel(nn.Module):
    """A host with slots in it.

    Slot names are the host's positions, or name them by depth: early (first), mid (middle), late (last).

    Args: host: gets the slots; device; slots: their names; task_config: must be of the host's topology;
    slot_config: how seeds live (default: the task's blending steps). Raises: ConfigError when the host lacks a slot,
    two slots fall on one position, or the task is of another topology.
    """

    def __init__(
        self,
        host: Host,
        device: torch.device | str = "cpu",
        slots: Sequence[str] = ("early", "mid", "late"),
        task_config: TaskConfig | None = None,
        slot_config: SlotConfig | None = None,
    ) -> None:
        super().__init__()
        self.task_config = task_config or TaskConfig(topology=host.topology)
        if self.task_config.topology != host.topology:
            raise ConfigError(
                f"the task asks for a {self.task_config.topology!r} host and {type(host).__name__} is {host.topology!r}"
            )
        self.host = host
        config = slot_config or SlotConfig(blending_steps=self.task_config.blending_steps)
        self.slot_positions = resolve_slots(slots, list(host.injection_points))
        for name, position in self.slot_positions.items():
            channels = host.injection_points[position]
            slot = SeedSlot(name, channels=channels, config=config, topology=host.topology)
            slot.upstream = host.upstream(position)
            host.slots[position] = slot.to(like(host))  # the host's device and precision
        self._flops: dict[Any, int] = {}
        # Code of a user's own may keep, draw or change what esper's and torch's layers do not.
        self.is_users_own = host.is_users_own or has_own_code(host)
        # What is in evaluation mode inside a host that is not was put there to stay, as a frozen batch norm.
        self._kept_evaluating = [part for part in host.modules() if host.training and not part.training]
        self.to(device)

    def train(self, mode: bool = True) -> Self:
        """The host's own `train`; layers that came in evaluation mode stay in it."""
        super().train(mode)
        for part in self._kept_evaluating:
            part.training = False
        return self

    def forward(self, x: Tensor) -> Tensor:
        """The host's forward pass, seeds included."""
        return self.host(x)

    @property
    def device(self) -> torch.device:
        """Where the model lives; assigning moves it."""
        return like(self.host).device

    @device.setter
    def device(self, device: torch.device | str) -> None:
        self.to(device)

    @property
    def slots(self) -> dict[str, SeedSlot]:
        """The slots by name, first to last."""
        at = self.host.slots._modules
        return {name: cast(SeedSlot, at[position]) for name, position in self.slot_positions.items()}

    def germinate_seed(
        self,
        blueprint_id: str,
        seed_id: str,
        slot: str,
        blend_algorithm_id: str = "sigmoid",
        generator: torch.Generator | None = None,
    ) -> SeedState:
        """Plant a seed in the named slot; see `SeedSlot.germinate`. Raises: ConfigError when there is no such slot."""
        if slot not in self.slot_positions:
            raise ConfigError(f"no slot {slot!r} in this model: it has {', '.join(self.slot_positions)}")
        return self.slots[slot].germinate(blueprint_id, seed_id, self.host, blend_algorithm_id, generator)

    @property
    def has_active_seed(self) -> bool:
        """Whether any slot holds a seed that is neither a fossil nor given up."""
        return any(is_active_stage(slot.stage) for slot in self.slots.values())

    @property
    def seed_state(self) -> SeedState | None:
        """The state of the first active seed, else of the first of any kind, else None."""
        states = [slot.state for slot in self.slots.values() if slot.state is not None]
        return min(states, key=lambda state: not is_active_stage(state.stage), default=None)

    def get_seed_parameters(self) -> list[nn.Parameter]:
        """The parameters of every seed and its gate, fossils included."""
        return [parameter for slot in self.slots.values() for parameter in slot.parameters()]

    def parameter_count(self) -> int:
        """Parameters of the host and of its seeds, those culled aside."""
        culled = [slot for slot in self.slots.values() if slot.stage is SeedStage.CULLED]
        total = sum(parameter.numel() for parameter in self.parameters())
        return total - sum(parameter.numel() for slot in culled for parameter in slot.parameters())

    def flops_per_sample(self, input_shape: Sequence[int]) -> int:
        """FLOPs of one forward pass of one sample, seeds included (a multiply-add is two).

        Args: input_shape: of one sample, (C, H, W) or (T,). Counted once for each topology the model takes.
        """
        states = [slot.state if slot.computes else None for slot in self.slots.values()]
        key = (tuple(input_shape), *(state and (state.blueprint_id, state.stage, state.has_gate) for state in states))
        if key not in self._flops:
            # What users bring may count its passes, or draw: a copy is run.
            model = copy_network(self) if self.is_users_own else self
            with undisturbed_streams(self.device):
                self._flops[key] = count_flops(model, self.host.example_input(input_shape))
        return self._flops[key]

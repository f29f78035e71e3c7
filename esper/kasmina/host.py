"""Hosts, and the model that lets seeds grow in them."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from esper.errors import ConfigError
from esper.kasmina.flops import count_flops
from esper.kasmina.lifecycle import SlotConfig
from esper.kasmina.seeding import default_generator, weights_from
from esper.kasmina.slot import SeedSlot
from esper.kasmina.state import SeedState
from esper.leyline import SeedStage, TaskConfig, is_active_stage

_FIRST_WIDTH = 32


class Host(nn.Module):
    """What a model needs of a host: its topology, the width of each slot position, and a module at each."""

    topology: str
    injection_points: dict[str, int]
    slots: nn.ModuleDict


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
            host.slots[position] = slot.to(next(host.parameters()))  # the host's device and precision
        self._flops: dict[Any, int] = {}
        self.to(device)

    def forward(self, x: Tensor) -> Tensor:
        """The host's forward pass, seeds included."""
        return self.host(x)

    @property
    def device(self) -> torch.device:
        """Where the model lives; assigning moves it."""
        return next(self.host.parameters()).device

    @device.setter
    def device(self, device: torch.device | str) -> None:
        self.to(device)

    @property
    def slots(self) -> dict[str, SeedSlot]:
        """The slots by name, first to last."""
        return {name: cast(SeedSlot, self.host.slots[position]) for name, position in self.slot_positions.items()}

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

        Args: input_shape: (C, H, W). Counted once for each topology the model takes.
        """
        states = [slot.state if slot.computes else None for slot in self.slots.values()]
        key = (tuple(input_shape), *(state and (state.blueprint_id, state.stage, state.has_gate) for state in states))
        if key not in self._flops:
            like = next(self.host.parameters())
            self._flops[key] = count_flops(self, torch.zeros(1, *input_shape, dtype=like.dtype, device=like.device))
        return self._flops[key]


def resolve_slots(names: Sequence[str], positions: Sequence[str]) -> dict[str, str]:
    """Each slot name with the position it means. Raises: ConfigError on an unknown name or a position named twice."""
    depths = {"early": positions[0], "mid": positions[len(positions) // 2], "late": positions[-1]}
    known = depths | {position: position for position in positions}
    resolved: dict[str, str] = {}
    for name in names:
        if name not in known:
            raise ConfigError(f"slots: this host has no position {name!r}; it has {', '.join(known)}")
        for other, position in resolved.items():
            if position == known[name]:
                raise ConfigError(
                    f"slots: {other!r} and {name!r} both fall on {position}, and a position holds one slot; "
                    f"this host has {len(positions)}: drop one of the names or raise host.n_blocks"
                )
        resolved[name] = known[name]
    return resolved

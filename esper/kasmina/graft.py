"""Slots in a network of your own."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from esper.errors import ConfigError
from esper.kasmina.base import Host, like
from esper.kasmina.copying import check_graph, copy_network
from esper.kasmina.features import probe, run_example
from esper.kasmina.host import MorphogeneticModel
from esper.kasmina.lifecycle import SlotConfig
from esper.kasmina.seeding import undisturbed_streams
from esper.leyline import TaskConfig
from esper.leyline.topologies import TOPOLOGIES, channel_dim


class GraftedHost(Host):
    """A network with slots behind named submodules; a copy is grown, the network itself stays as it is.

    Args: module: any network; positions: slot name -> path of a submodule, such as "layer2" or "encoder.layers.1";
    example: an input [B, ...] to try the network on; key: what the paths were given as, for messages; topology: of the
    features there, one of `esper.leyline.topologies` (None: told by the layers that make them).
    Raises: ConfigError, with the reason, on a submodule that does not exist or whose output takes no seed.
    """

    is_users_own = True

    def __init__(
        self,
        module: nn.Module,
        positions: Mapping[str, str],
        example: Tensor,
        key: str = "",
        topology: str | None = None,
    ) -> None:
        super().__init__()
        if not positions:
            raise ConfigError("slots: name at least one submodule, such as slots={'mid': 'layer2'}")
        for name in positions:  # which torch takes as those of submodules
            if not isinstance(name, str) or not name or "." in name or hasattr(nn.ModuleDict(), name):
                raise ConfigError(f"slots: names are plain words, not {name!r}")
        if topology not in (None, *TOPOLOGIES):
            raise ConfigError(f"topology={topology!r}: must be one of {', '.join(TOPOLOGIES)}")
        _check_eager(module, positions, key)
        self.module = copy_network(module)
        found = probe(self.module, positions, example, key, topology)
        topologies = {features.topology for features in found.values()}
        if len(topologies) > 1:
            listed = ", ".join(f"{name}: {found[path].topology}" for name, path in positions.items())
            raise ConfigError(f"{key or 'slots'}: all must be of one topology, and these are not ({listed})")
        (self.topology,) = topologies
        self.injection_points = {
            name: found[path].shape[channel_dim(self.topology)]
            for path in found  # in the order in which the data meets them
            for name in positions
            if positions[name] == path
        }
        self.slots = nn.ModuleDict({name: nn.Identity() for name in self.injection_points})
        self.dtype = example.dtype
        self._positions = dict(positions)
        for name, path in positions.items():
            owner, _, leaf = path.rpartition(".")
            inner = self.module.get_submodule(path)
            setattr(self.module.get_submodule(owner), leaf, _Grafted(inner, self.slots, name))
        if not module.training:  # made ready for use, not frozen layer by layer
            self.module.train()
        self._check_reached(module, positions, example, key)

    def _check_reached(self, original: nn.Module, positions: Mapping[str, str], example: Tensor, key: str) -> None:
        """Raises ConfigError where the network calls a submodule by another way than its name (a list of its own)."""
        try:
            attempt = copy_network(self)
        except ConfigError as error:
            raise ConfigError(self.in_own_words(str(error))) from error
        reached: set[str] = set()
        for name, slot in attempt.slots.items():
            slot.register_forward_hook(lambda *_, name=name: reached.add(name))
        with undisturbed_streams(example.device), torch.enable_grad():
            check_graph(run_example(attempt, example), original)
        for name, path in positions.items():
            if name not in reached:
                raise ConfigError(
                    f"{key or f'slots.{name}'}={path}: the network keeps it in another place too and calls it from "
                    "there, so no slot can stand behind it; keep it in an nn.ModuleList"
                )

    def forward(self, x: Tensor) -> Tensor:
        """What the network itself makes of x, seeds included."""
        return self.module(x)

    def upstream(self, position: str) -> tuple[nn.Module, ...]:
        """The submodule that was named."""
        return (self.module.get_submodule(f"{self._positions[position]}.inner"),)

    def example_input(self, shape: Sequence[int]) -> Tensor:
        """An input of one sample."""
        return torch.zeros(1, *shape, dtype=self.dtype, device=like(self).device)

    def in_own_words(self, text: str) -> str:
        """Names of layers as they are in the network that was brought."""
        for path in self._positions.values():
            text = text.replace(f"module.{path}.inner", f"module.{path}")
        text = re.sub(r"(?<![\w.])(?:host\.)?module\.(?=\w)", "", text)
        name = type(self.module).__name__
        text = re.sub(r"(^|\blayer )module(?=:| of )", rf"\g<1>{name}", text)
        return text.replace(type(self).__name__, name)


def _check_eager(module: nn.Module, positions: Mapping[str, str], key: str) -> None:
    """Raises ConfigError where no slot could stand, as what runs is not the layers but something made of them."""
    layers = dict(module.named_modules())
    for name, path in positions.items():
        steps = path.split(".")
        for above in ("", *(".".join(steps[:end]) for end in range(1, len(steps) + 1))):
            kind = type(layers.get(above))
            if issubclass(kind, torch.jit.ScriptModule):
                what = f"TorchScript ({kind.__name__}), in which no layer can be replaced"
            elif kind.__module__.startswith("torch._dynamo"):
                what = f"compiled ({kind.__name__}), and does not run its layers"
            else:
                continue
            raise ConfigError(
                f"{key or f'slots.{name}'}={path}: {above or 'the network'} is {what}; give the network that it "
                "was made of, and compile the model that grows"
            )
    for path, part in layers.items():
        if getattr(part, "_compiled_call_impl", None) is not None:
            raise ConfigError(
                f"{path or type(module).__name__}: is compiled in place (.compile()), which no copy of it would be; "
                "compile the model that grows instead"
            )


class _Grafted(nn.Module):
    """A submodule with a slot behind it; of several outputs (an LSTM's, say) the first goes through the slot.

    To the rest of the network it is the submodule: what is asked of it or set on it reaches the one inside.
    """

    def __init__(self, inner: nn.Module, slots: nn.ModuleDict, name: str) -> None:
        super().__init__()
        self.inner = inner
        vars(self)["_slot_of"] = (slots, name)  # of the host, which owns them: not a submodule here

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The submodule's output, grown."""
        slots, name = self._slot_of
        slot, out = slots[name], self.inner(*args, **kwargs)
        return (slot(out[0]), *out[1:]) if isinstance(out, tuple) else slot(out)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # protocols, such as copying, are this object's own affair
            return super().__getattr__(name)
        inner = self._modules.get("inner")
        return super().__getattr__(name) if inner is None or name == "inner" else getattr(inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("inner", "training") or name in vars(self) or "inner" not in vars(self).get("_modules", {}):
            super().__setattr__(name, value)
        else:
            setattr(self.inner, name, value)

    def __getitem__(self, index: Any) -> Any:
        return self.inner[index]  # type: ignore[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        inner: Any = self.inner
        inner[index] = value

    def __delitem__(self, index: Any) -> None:
        inner: Any = self.inner
        del inner[index]

    def __len__(self) -> int:
        return len(self.inner)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.inner)  # type: ignore[call-overload]

    def __bool__(self) -> bool:
        return True


def grow(
    module: nn.Module,
    slots: Mapping[str, str],
    example: Tensor,
    slot_config: SlotConfig | None = None,
    device: torch.device | str | None = None,
    topology: str | None = None,
) -> MorphogeneticModel:
    """Put slots behind named submodules of any network, without editing it.

    Args: slots: slot name -> path of a submodule; example: an input [B, ...] to try the network on; slot_config: how
    seeds live; device: the network's own by default; topology: "cnn" or "transformer", where the layers do not tell.
    Returns: a model to plant seeds in, and to train by itself or as a member of a population. Its `host.module` is a
    copy of the network. Raises: ConfigError where a slot cannot be.
    """
    check_arguments("grow", module, slots, example)
    host = GraftedHost(module, slots, example, topology=topology)
    where = like(module).device if device is None else device
    return MorphogeneticModel(
        host, where, list(host.injection_points), TaskConfig(topology=host.topology), slot_config or SlotConfig()
    )


def check_arguments(caller: str, module: nn.Module, slots: Mapping[str, str], example: Tensor) -> None:
    """Raises ConfigError where what is to grow, where, or what it is tried on, is none; see `grow`."""
    if not isinstance(module, nn.Module) or not any(True for _ in module.parameters()):
        raise ConfigError(f"{caller}: expected an nn.Module with parameters, and got {type(module).__name__}")
    if not isinstance(slots, Mapping):
        raise ConfigError(f"slots: expected names and submodules, such as {{'mid': 'layer2'}}, and got {slots!r}")
    if not isinstance(example, Tensor):
        raise ConfigError(f"example: expected an input as a tensor [B, ...], and got {type(example).__name__}")
    if not example.dim() or not len(example):
        raise ConfigError(f"example: expected one example or more, [B, ...], and got {list(example.shape)}")

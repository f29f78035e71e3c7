"""Slots in a network of your own."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from esper.errors import ConfigError
from esper.kasmina.base import Host
from esper.kasmina.host import MorphogeneticModel
from esper.kasmina.lifecycle import SlotConfig
from esper.kasmina.probe import evaluating
from esper.leyline import TaskConfig

_TOPOLOGIES = {4: ("cnn", 1), 3: ("transformer", -1)}  # dimensions of the features -> topology, channel dimension


class GraftedHost(Host):
    """A network with slots behind named submodules; a copy is grown, the network itself stays as it is.

    Args: module: any network; positions: slot name -> path of a submodule, such as "layer2" or "encoder.layers.1";
    example: an input [B, ...] to try the network on; key: what the paths were given as, for messages. Raises:
    ConfigError, with the reason, on a submodule that does not exist or whose output takes no seed.
    """

    def __init__(self, module: nn.Module, positions: Mapping[str, str], example: Tensor, key: str = "") -> None:
        super().__init__()
        if not positions:
            raise ConfigError("slots: name at least one submodule, such as slots={'mid': 'layer2'}")
        if any("." in name or not name for name in positions):
            raise ConfigError(f"slots: names are plain words, not {', '.join(positions)}")
        self.module = copy.deepcopy(module)
        features = _probe(self.module, positions, example, key)
        kinds = {name: _TOPOLOGIES[features[path].dim()] for name, path in positions.items()}
        topologies = {topology for topology, _ in kinds.values()}
        if len(topologies) > 1:
            listed = ", ".join(f"{name}: {topology}" for name, (topology, _) in kinds.items())
            raise ConfigError(f"{key or 'slots'}: all must be of one topology, and these are not ({listed})")
        (self.topology,) = topologies
        self.injection_points = {
            name: features[path].shape[kinds[name][1]]
            for path in features  # in the order in which the data meets them
            for name in positions
            if positions[name] == path
        }
        self.slots = nn.ModuleDict({name: nn.Identity() for name in self.injection_points})
        self.dtype = example.dtype
        for name, path in positions.items():
            owner, _, leaf = path.rpartition(".")
            inner = self.module.get_submodule(path)
            setattr(self.module.get_submodule(owner), leaf, _Grafted(inner, self.slots, name))

    def forward(self, x: Tensor) -> Tensor:
        """What the network itself makes of x, seeds included."""
        return self.module(x)

    def example_input(self, shape: Sequence[int]) -> Tensor:
        """An input of one sample."""
        return torch.zeros(1, *shape, dtype=self.dtype, device=next(self.parameters()).device)


class _Grafted(nn.Module):
    """A submodule with a slot behind it; of several outputs (an LSTM's, say) the first goes through the slot."""

    def __init__(self, inner: nn.Module, slots: nn.ModuleDict, name: str) -> None:
        super().__init__()
        self.inner = inner
        self.name = name
        self._slots = (slots,)  # of the host, which owns them: not a submodule here

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The submodule's output, grown."""
        slot, out = self._slots[0][self.name], self.inner(*args, **kwargs)
        return (slot(out[0]), *out[1:]) if isinstance(out, tuple) else slot(out)


def grow(
    module: nn.Module,
    slots: Mapping[str, str],
    example: Tensor,
    slot_config: SlotConfig | None = None,
    device: torch.device | str | None = None,
) -> MorphogeneticModel:
    """Put slots behind named submodules of any network, without editing it.

    Args: slots: slot name -> path of a submodule; example: an input [B, ...] to try the network on, from which channels
    and topology follow; slot_config: how seeds live; device: the network's own by default.
    Returns: a model to plant seeds in, and to train by itself or as a member of a population. Its `host.module` is a
    copy of the network. Raises: ConfigError where a slot cannot be.
    """
    if not isinstance(module, nn.Module) or not any(True for _ in module.parameters()):
        raise ConfigError(f"grow: expected an nn.Module with parameters, and got {type(module).__name__}")
    if not isinstance(slots, Mapping):
        raise ConfigError(f"slots: expected names and submodules, such as {{'mid': 'layer2'}}, and got {slots!r}")
    if not isinstance(example, Tensor):
        raise ConfigError(f"example: expected an input as a tensor [B, ...], and got {type(example).__name__}")
    host = GraftedHost(module, slots, example)
    where = next(iter(module.parameters())).device if device is None else device
    return MorphogeneticModel(
        host, where, list(host.injection_points), TaskConfig(topology=host.topology), slot_config or SlotConfig()
    )


def _probe(module: nn.Module, positions: Mapping[str, str], example: Tensor, key: str) -> dict[str, Tensor]:
    """Each path's features [B, ...], in the order in which the data meets them."""
    asked = {name: f"{key or f'slots.{name}'}={path}" for name, path in positions.items()}
    found: dict[str, Tensor] = {}
    hooks = []
    for name, path in positions.items():
        try:
            submodule = module.get_submodule(path)
        except AttributeError as error:
            known = ", ".join(path for path, _ in module.named_modules() if path)
            raise ConfigError(f"{asked[name]}: the network has no such submodule; it has {known}") from error
        if not path or list(positions.values()).count(path) > 1:
            raise ConfigError(f"{asked[name]}: every slot needs a submodule of its own")

        def note(_: nn.Module, __: Any, output: Any, name: str = name, path: str = path) -> None:
            output = output[0] if isinstance(output, tuple) and output else output
            if path in found:
                raise ConfigError(f"{asked[name]}: it runs more than once a pass, and a slot stands in one place")
            if not isinstance(output, Tensor):
                raise ConfigError(f"{asked[name]}: its output is {type(output).__name__}, and a seed takes a tensor")
            if output.dim() not in _TOPOLOGIES or not output.is_floating_point():
                raise ConfigError(
                    f"{asked[name]}: its output is {list(output.shape)} {output.dtype}; a seed takes "
                    "images [B, C, H, W] or sequences [B, T, C]"
                )
            found[path] = output

        hooks.append(submodule.register_forward_hook(note))
    try:
        with torch.no_grad(), evaluating(module):
            module(example)
    except ConfigError:
        raise
    except Exception as error:  # whatever a network of any make may raise
        raise ConfigError(f"the network fails on the example {list(example.shape)}: {error}") from error
    finally:
        for hook in hooks:
            hook.remove()
    for name, path in positions.items():
        if path not in found:
            raise ConfigError(f"{asked[name]}: the network's forward pass never calls it")
    return found

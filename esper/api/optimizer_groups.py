"""Seeds' parameters in an optimizer of a user's own: they join and leave it as seeds come and go."""

import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from esper.errors import ConfigError
from esper.kasmina import MorphogeneticModel
from esper.kasmina.in_place import SLOTS

if TYPE_CHECKING:
    from esper.api.loop_growth import LoopGrowth

_MOMENTUM = "momentum_buffer"  # of torch.optim.SGD
_REFUSED: dict[type, str] = {
    torch.optim.LBFGS: "takes no parameters later on",
    torch.optim.Muon: "takes matrices alone, and seeds have vectors, too",
}


class OptimizerGroups:
    """Keeps an optimizer's groups as the seeds are; all else in it, state and settings, stays.

    A seed is in the group of the layer that its slot is behind, so that rates, decay and schedulers are that layer's.

    Args: model: that grows; positions: slot -> path of the layer in the network. Raises: ConfigError where it cannot
    take seeds.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: MorphogeneticModel,
        network: nn.Module,
        positions: Mapping[str, str],
    ) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ConfigError(f"optimizer: expected a torch.optim.Optimizer, and got {type(optimizer).__name__}")
        for kind, why in _REFUSED.items():
            if isinstance(optimizer, kind):
                raise ConfigError(f"optimizer: {kind.__name__} {why}; use another, such as torch.optim.AdamW")
        groups = {id(p): index for index, group in enumerate(optimizer.param_groups) for p in group["params"]}
        own = [groups[id(p)] for p in network.parameters() if id(p) in groups]
        if not own:
            raise ConfigError("optimizer: it has none of the network's parameters; make it of model.parameters()")
        self.optimizer = optimizer
        self._model = model
        self._group_of = {
            name: next((groups[id(p)] for p in network.get_submodule(path).parameters() if id(p) in groups), own[0])
            for name, path in positions.items()
        }
        self._joined: dict[str, nn.Parameter] = {}

    def sync(self) -> None:
        """Let in what has come, and out what has gone; a seed that was loaded anew takes over the state it had."""
        wanted = {
            f"{name}/{slot.state.seed_id}/{path}": (self._group_of[name], f"{SLOTS}.{name}.{path}", parameter)
            for name, slot in self._model.slots.items()
            if slot.state is not None
            for path, parameter in slot.named_parameters()
        }
        # Those that are in it already, as one that is made when seeds are there has them, take their places, too.
        seeds = {id(parameter) for parameter in self._joined.values()} | {id(one) for _, _, one in wanted.values()}
        for name, before in self._joined.items():
            now = wanted.get(name, (0, "", None))[2]
            if now is not before and before in self.optimizer.state:
                state = self.optimizer.state.pop(before)
                if now is not None:
                    self.optimizer.state[now] = state
        for index, group in enumerate(self.optimizer.param_groups):
            kept = [place for place, parameter in enumerate(group["params"]) if id(parameter) not in seeds]
            come = [(name, parameter) for number, name, parameter in wanted.values() if number == index]
            group["params"][:] = [group["params"][place] for place in kept] + [parameter for _, parameter in come]
            if "param_names" in group:  # of an optimizer that was made of named_parameters()
                group["param_names"][:] = [group["param_names"][place] for place in kept] + [name for name, _ in come]
            self._start_momentum(group, [parameter for _, parameter in come])
        self._joined = {name: parameter for name, (_, _, parameter) in wanted.items()}

    def _start_momentum(self, group: dict[str, Any], come: Sequence[nn.Parameter]) -> None:
        """Fused SGD takes a group whose parameters all have momentum, or none: what joins such a one begins at 0."""
        if not (isinstance(self.optimizer, torch.optim.SGD) and group["fused"] and group["momentum"]):
            return
        state = self.optimizer.state
        if any(state[parameter].get(_MOMENTUM) is not None for parameter in group["params"] if parameter in state):
            for parameter in come:
                if state[parameter].get(_MOMENTUM) is None:
                    state[parameter][_MOMENTUM] = torch.zeros_like(parameter)


class Rejoin:
    """A hook of the network's load_state_dict, which makes seeds anew: their parameters take the old ones' places.

    A copy of the network is no longer the Grower's, and neither is a copy of this.
    """

    def __init__(self, growth: "LoopGrowth | None" = None) -> None:
        self._growth = (lambda: None) if growth is None else weakref.ref(growth)

    def __call__(self, module: nn.Module, incompatible_keys: Any) -> None:
        growth = self._growth()
        if growth is not None and growth.groups is not None:
            growth.groups.sync()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Rejoin, ()

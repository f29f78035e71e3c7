"""The weights of many networks side by side: each parameter of all of them is one tensor, a network is a row of it.

The modules themselves stay whole: their parameters and buffers are views of their rows, so that lifecycle,
checkpointing or export of one member work on its plain module, and training works on the stacks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from esper.errors import EngineError

HOST = "host"  # the name of the hosts' stack
_KINDS = ("_parameters", "_buffers")


@dataclass(slots=True)
class _Place:
    """Where a layer keeps a tensor, and the row of the stack that this is a view of.

    key: the stack's name for it, which layers that share it have in common.
    """

    key: str
    name: str
    layer: nn.Module
    kind: str
    leaf: str
    tensor: Tensor
    row: Tensor
    address: int = -1  # of the row, and its shape: what the tensor still has unless somebody put another in its place
    shape: torch.Size | None = None

    def bind(self, row: Tensor) -> None:
        """Make the tensor a view of its row; the object stays, as others may hold it."""
        self.tensor.data = self.row = row
        self.address, self.shape = row.data_ptr(), row.shape

    def adopt(self) -> None:
        """Take over what the network itself has put here; raises EngineError where the stack cannot hold it."""
        current, row = getattr(self.layer, self.kind).get(self.leaf), self.row
        if current is None or (current is not self.tensor and isinstance(current, nn.Parameter)):
            raise EngineError(f"{self.name}: the network replaces it as it runs, and training could not follow")
        if current.shape != row.shape or current.dtype != row.dtype:
            held, found = (f"{list(tensor.shape)} {tensor.dtype}" for tensor in (row, current))
            raise EngineError(f"{self.name}: is {held}, and the network makes it {found} as it runs")
        with torch.no_grad():
            row.copy_(current)
        self.tensor = current
        self.bind(row)


class ModuleStack:
    """Same-shaped modules of some members.

    Attributes: members: ascending member indices, one a row; parameters (leaves) and buffers by their name in the
    module, [R, ...]; a tensor that layers share goes by its first name.
    """

    def __init__(
        self, modules: Mapping[int, nn.Module], skip: Sequence[str] = (), is_channels_last: bool = False
    ) -> None:
        """skip: prefixes of names that belong to other stacks. is_channels_last: how each row's convolutions lie.

        Raises EngineError where the modules are not of one architecture, or share tensors between them.
        """
        self.members = sorted(modules)
        self.modules = [modules[member] for member in self.members]
        self._places = [_places(module, tuple(f"{prefix}." for prefix in skip)) for module in self.modules]
        self._check_alike()
        with torch.no_grad():
            self.parameters, self.buffers = (self._stack(kind, is_channels_last) for kind in _KINDS)
        self._bind()
        self._gradients: dict[str, Tensor] = {}
        self._gradient_rows: list[_GradientRow] = []
        self._untrained: list[tuple[int, _Place]] = []

    def _check_alike(self) -> None:
        first, *others = [{p.name: (p.key, p.tensor.shape, p.tensor.dtype) for p in row} for row in self._places]
        for member, other in zip(self.members[1:], others, strict=True):
            if differing := [name for name in first | other if first.get(name) != other.get(name)]:
                raise EngineError(
                    f"member {member}: {differing[0]} is not as in member {self.members[0]}; "
                    "all members of a population have one architecture"
                )
        owners: dict[int, int] = {}
        for member, row in zip(self.members, self._places, strict=True):
            for place in row:
                if owners.setdefault(id(place.tensor), member) != member:
                    raise EngineError(
                        f"members {owners[id(place.tensor)]} and {member} share {place.name}: give each its own network"
                    )

    def _stack(self, kind: str, is_channels_last: bool) -> dict[str, Tensor]:
        names = [place.name for place in self._places[0] if place.kind == kind and place.name == place.key]
        rows = [{place.name: place.tensor.detach() for place in row} for row in self._places]
        return {name: _laid(torch.stack([row[name].contiguous() for row in rows]), is_channels_last) for name in names}

    def _bind(self) -> None:
        tensors = self.tensors()
        for index, row in enumerate(self._places):
            for place in row:
                place.bind(tensors[place.key].detach()[index])
                if isinstance(place.tensor, nn.Parameter):
                    place.tensor.grad = None

    def adopt(self) -> None:
        """Take over buffers that networks have replaced, and weights that they have moved elsewhere, as they ran.

        Raises EngineError where a parameter was replaced, or a tensor was given another dtype, or another shape in some
        members alone.
        """
        grown: dict[str, list[_Place]] = {}
        for row in self._places:
            for place in row:
                current = getattr(place.layer, place.kind).get(place.leaf)
                if current is place.tensor and current.data_ptr() == place.address and current.shape == place.shape:
                    continue  # nearly always, and every epoch asks of every tensor of every member
                if current is not None and current.shape != place.row.shape and place.key in self.buffers:
                    grown.setdefault(place.key, []).append(place)
                else:
                    place.adopt()
        for key, places in grown.items():
            self._restack(key, places)

    def _restack(self, key: str, places: list["_Place"]) -> None:
        """A buffer that has another shape now, in every member alike."""
        rows = [place.layer._buffers[place.leaf] for place in places]
        if len(places) < len(self.members) or len({(row.shape, row.dtype) for row in rows if row is not None}) > 1:
            places[0].adopt()  # which says why not
        self.buffers[key] = torch.stack([row.detach() for row in rows if row is not None])
        for index, (place, row) in enumerate(zip(places, rows, strict=True)):
            assert row is not None
            place.tensor = row
            place.bind(self.buffers[key][index])

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers together."""
        return self.parameters | self.buffers

    def row_of(self, member: int) -> int:
        """Where a member stands. Raises ValueError if it has no row here."""
        return self.members.index(member)

    # ---- who takes part in training

    def trained_rows(self) -> dict[str, list[bool]]:
        """Parameter -> whether each row's is to be trained, as the modules' own parameters say (requires_grad)."""
        rows = [{place.key: place.tensor.requires_grad for place in row} for row in self._places]
        return {name: [row[name] for row in rows] for name in self.parameters}

    def hold_gradients(self) -> None:
        """Let the modules' own backward passes write into stacks: `parameter.grad` is a view of its row."""
        trained = self.trained_rows()
        wanted = {name for name, rows in trained.items() if any(rows)}
        if wanted != self._gradients.keys():
            self._gradients = {n: torch.zeros_like(stack) for n, stack in self.parameters.items() if n in wanted}
        self._gradient_rows = [
            _GradientRow(place, index, self._gradients[place.key].data[index])
            for index, row in enumerate(self._places)
            for place in row
            if place.name == place.key and place.key in trained and trained[place.key][index]
        ]

        held = {(row.index, row.place.key) for row in self._gradient_rows}
        self._untrained = [
            (index, place)
            for index, row in enumerate(self._places)
            for place in row
            if place.name == place.key and isinstance(place.tensor, nn.Parameter) and (index, place.key) not in held
        ]

    def zero_gradients(self) -> None:
        """Before the modules' backward passes."""
        if self._gradients:
            torch._foreach_zero_(list(self._gradients.values()))
        for row in self._gradient_rows:
            row.place.tensor.grad = row.gradient
        for _, place in self._untrained:
            place.tensor.grad = None

    def take_gradients(self) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
        """After them: gradients [R, ...] by parameter, and the rows of each that took no part (where there are any).

        A parameter that took part in no row has none.
        """
        present: dict[str, set[int]] = {name: set() for name in self._gradients}
        for row in self._gradient_rows:
            if row.take():
                present[row.place.key].add(row.index)
        for index, place in self._untrained:
            if place.tensor.grad is not None:  # it has begun to be trained in this very pass
                stack = self._gradients.setdefault(place.key, torch.zeros_like(self.parameters[place.key]))
                stack[index].copy_(place.tensor.grad)
                present.setdefault(place.key, set()).add(index)
        everyone = range(len(self.members))
        absent = {name: [r for r in everyone if r not in rows] for name, rows in present.items() if rows}
        gradients = {name: self._gradients[name] for name in absent}
        return gradients, {name: rows for name, rows in absent.items() if rows}


@dataclass(slots=True)
class _GradientRow:
    """One parameter of one module; `gradient` counts its own writes, as its memory is shared but its counter is not."""

    place: _Place
    index: int
    gradient: Tensor
    version: int = 0

    def take(self) -> bool:
        """Whether a backward pass reached it; its gradient then stands in the stack."""
        if self.place.tensor.data_ptr() != self.place.row.data_ptr():
            self.place.adopt()
        found = self.place.tensor.grad
        if found is not None and found is not self.gradient:  # a hook put another in its place
            self.gradient.copy_(found)
        written, self.version = self.version, self.gradient._version
        return found is not None and self.version != written


def _places(module: nn.Module, skip: tuple[str, ...]) -> list[_Place]:
    keys: dict[int, str] = {}
    places = []
    for path, layer in module.named_modules():
        for kind in _KINDS:
            for leaf, tensor in getattr(layer, kind).items():
                name = f"{path}.{leaf}" if path else leaf
                if tensor is not None and not name.startswith(skip):
                    if nn.parameter.is_lazy(tensor):
                        raise EngineError(f"{name} has no shape yet: run the network once before it is trained here")
                    key = keys.setdefault(id(tensor), name)
                    places.append(_Place(key, name, layer, kind, leaf, tensor, tensor))
    return places


def _laid(stack: Tensor, is_channels_last: bool) -> Tensor:
    if not is_channels_last or stack.dim() != 5:
        return stack
    return stack.flatten(0, 1).contiguous(memory_format=torch.channels_last).view(stack.shape)

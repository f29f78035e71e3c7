"""Everything a population is at one moment, as flat tensors and plain values; and back, for all members or some."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from esper.checkpoint.python_values import decode, encode
from esper.engine.state.view import Members
from esper.errors import CheckpointError
from esper.kasmina.python_state import changes, write_state


@dataclass(slots=True)
class Snapshot:
    """tensors: by "weights/STACK/NAME", "optimizer/STACK/SLOT/NAME" and "optimizer/STACK/steps", rows in the order of
    members[STACK]; seeds: member -> slot -> plain seed state, or None for a dormant slot; states: member -> what its
    network keeps in Python and has changed since it was made, by path."""

    tensors: dict[str, Tensor]
    members: dict[str, list[int]]
    seeds: list[dict[str, dict[str, Any] | None]]
    states: list[dict[str, Any]]


@torch.no_grad()
def take_snapshot(
    population: Members, members: Collection[int] | None = None, earlier: Snapshot | None = None
) -> Snapshot:
    """A copy that later training does not touch.

    members: who is copied anew (None: all); the others stay as `earlier` has them.
    """
    now = Snapshot(
        tensors=_tensors(population),
        members={name: list(stack.members) for name, stack in population.stacks.items()},
        seeds=[
            {name: None if slot.state is None else slot.state.to_dict() for name, slot in model.slots.items()}
            for model in population.models
        ],
        states=[
            changes(model, initial) for model, initial in zip(population.models, population.initial_states, strict=True)
        ],
    )
    if earlier is None or members is None or len(members) == len(population):
        return replace(now, tensors={name: tensor.clone() for name, tensor in now.tensors.items()})
    return _merged(now, earlier, set(members))


def _merged(now: Snapshot, earlier: Snapshot, anew: set[int]) -> Snapshot:
    """The members `anew` from `now`, all others from `earlier`."""
    origin: dict[str, dict[int, Snapshot]] = {}  # stack -> member -> where its row comes from
    for source in (earlier, now):
        for stack, held in source.members.items():
            for member in held:
                if (member in anew) is (source is now):
                    origin.setdefault(stack, {})[member] = source
    members = {stack: sorted(sources) for stack, sources in origin.items()}
    device = next(iter(now.tensors.values())).device  # an earlier one may come from a file

    def row(key: str, stack: str, member: int) -> Tensor:
        source = origin[stack][member]
        return source.tensors[key][source.members[stack].index(member)].to(device)

    return Snapshot(
        tensors={
            key: torch.stack([row(key, stack, member) for member in members[stack]])
            for key in earlier.tensors | now.tensors
            if (stack := key.split("/")[1]) in members
        },
        members=members,
        seeds=[(now if member in anew else earlier).seeds[member] for member in range(len(now.seeds))],
        states=[(now if member in anew else earlier).states[member] for member in range(len(now.states))],
    )


@torch.no_grad()
def restore_snapshot(population: Members, snapshot: Snapshot, members: Iterable[int] | None = None) -> None:
    """Bring members (None: all) back to the snapshot: topology, weights, statistics and optimizer state.

    Raises CheckpointError, naming the tensor, where the snapshot does not fit this population.
    """
    chosen = list(range(len(population))) if members is None else list(members)
    for member in chosen:
        model = population.models[member]
        for name, slot in model.slots.items():
            slot.restore(snapshot.seeds[member][name], model.host.topology)
    population.sync_topology()
    rows = {
        name: [(stack.row_of(e), snapshot.members[name].index(e)) for e in chosen if e in stack.members]
        for name, stack in population.stacks.items()
        if any(e in stack.members for e in chosen)
    }
    for key, tensor in _tensors(population).items():
        stack = key.split("/")[1]
        if stack not in rows:
            continue  # planted since, by members that stay as they are
        if key not in snapshot.tensors:
            raise CheckpointError(f"tensor {key} is missing: the checkpoint is of another architecture or optimizer")
        source = snapshot.tensors[key]
        if source.shape[1:] != tensor.shape[1:] or source.dtype != tensor.dtype:
            raise CheckpointError(
                f"tensor {key}: found {list(source.shape)} {source.dtype}, expected {list(tensor.shape)} {tensor.dtype}"
            )
        for target_row, source_row in rows[stack]:
            tensor[target_row] = source[source_row].to(tensor.device)
    for member in chosen:
        write_state(population.models[member], snapshot.states[member], population.initial_states[member])


def _tensors(population: Members) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for stack_name, stack in population.stacks.items():
        named |= {f"weights/{stack_name}/{name}": tensor.detach() for name, tensor in stack.tensors().items()}
        held = population.optimizer.rows[stack_name]
        named[f"optimizer/{stack_name}/steps"] = held.steps
        named[f"optimizer/{stack_name}/learning_rate"] = held.learning_rate
        for slot, moments in held.moments.items():
            named |= {f"optimizer/{stack_name}/{slot}/{name}": tensor for name, tensor in moments.items()}
    return named


def split_snapshot(prefix: str, snapshot: Snapshot) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A snapshot as tensors under a prefix, and plain values."""
    tensors = {prefix + name: tensor for name, tensor in snapshot.tensors.items()}
    states = [
        {path: encode(value, tensors, f"{prefix}state/{member}/{path}") for path, value in state.items()}
        for member, state in enumerate(snapshot.states)
    ]
    return tensors, {"members": snapshot.members, "seeds": snapshot.seeds, "states": states}


def join_snapshot(prefix: str, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> Snapshot:
    """The snapshot that `split_snapshot` took apart."""
    kinds = (f"{prefix}weights/", f"{prefix}optimizer/")
    chosen = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(kinds)}
    states = [{path: decode(value, tensors) for path, value in state.items()} for state in plain["states"]]
    return Snapshot(chosen, plain["members"], plain["seeds"], states)


def join_members(parts: Sequence[tuple[Sequence[int], Snapshot]]) -> Snapshot:
    """One snapshot of the members of several, each with the numbers that its own members have in it."""
    places: dict[str, list[tuple[int, int, int]]] = {}  # stack -> (member, part, row)
    for part, (numbers, snapshot) in enumerate(parts):
        for stack, members in snapshot.members.items():
            places.setdefault(stack, []).extend((numbers[e], part, row) for row, e in enumerate(members))
    places = {stack: sorted(places[stack]) for stack in sorted(places)}
    names = sorted({name for _, snapshot in parts for name in snapshot.tensors})
    seeds = {number: seed for numbers, one in parts for number, seed in zip(numbers, one.seeds, strict=True)}
    states = {number: state for numbers, one in parts for number, state in zip(numbers, one.states, strict=True)}
    return Snapshot(
        tensors={
            name: torch.stack([parts[part][1].tensors[name][row] for _, part, row in places[name.split("/")[1]]])
            for name in names
        },
        members={stack: [member for member, _, _ in rows] for stack, rows in places.items()},
        seeds=[seeds[number] for number in sorted(seeds)],
        states=[states[number] for number in sorted(states)],
    )


def take_members(snapshot: Snapshot, numbers: Sequence[int]) -> Snapshot:
    """The snapshot of some members, numbered anew in this order, which is ascending."""
    place = {number: member for member, number in enumerate(numbers)}
    held = {stack: [e for e in members if e in place] for stack, members in snapshot.members.items()}
    held = {stack: members for stack, members in held.items() if members}
    rows = {stack: [snapshot.members[stack].index(e) for e in members] for stack, members in held.items()}
    return Snapshot(
        tensors={
            name: tensor[rows[stack]]
            for name, tensor in snapshot.tensors.items()
            if (stack := name.split("/")[1]) in rows
        },
        members={stack: [place[e] for e in members] for stack, members in held.items()},
        seeds=[snapshot.seeds[number] for number in numbers],
        states=[snapshot.states[number] for number in numbers],
    )

"""Everything a population is at one moment, as flat tensors and plain values; and back, for all members or some."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from esper.engine.population import Population
from esper.errors import CheckpointError


@dataclass(slots=True)
class Snapshot:
    """tensors: by "weights/STACK/NAME", "optimizer/STACK/SLOT/NAME" and "optimizer/STACK/steps", rows in the order of
    members[STACK]; seeds: member -> slot -> plain seed state, or None for a dormant slot."""

    tensors: dict[str, Tensor]
    members: dict[str, list[int]]
    seeds: list[dict[str, dict[str, Any] | None]]


@torch.no_grad()
def take_snapshot(population: Population) -> Snapshot:
    """A copy that later training does not touch."""
    return Snapshot(
        tensors={name: tensor.detach().clone() for name, tensor in _tensors(population).items()},
        members={name: list(stack.members) for name, stack in population.stacks.items()},
        seeds=[
            {name: None if slot.state is None else slot.state.to_dict() for name, slot in model.slots.items()}
            for model in population.models
        ],
    )


@torch.no_grad()
def restore_snapshot(population: Population, snapshot: Snapshot, members: Iterable[int] | None = None) -> None:
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


def _tensors(population: Population) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for stack_name, stack in population.stacks.items():
        named |= {f"weights/{stack_name}/{name}": tensor.detach() for name, tensor in stack.tensors().items()}
        held = population.optimizer.rows[stack_name]
        named[f"optimizer/{stack_name}/steps"] = held.steps
        named[f"optimizer/{stack_name}/learning_rate"] = held.learning_rate
        for slot, moments in held.slots.items():
            named |= {f"optimizer/{stack_name}/{slot}/{name}": tensor for name, tensor in moments.items()}
    return named

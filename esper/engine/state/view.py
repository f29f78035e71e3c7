"""Some members of a population, seen as a population of their own: one job among those that train together."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from esper.engine.optimizer_step import Rows
from esper.engine.population import Population
from esper.errors import EngineError


@dataclass(frozen=True, slots=True)
class StackView:
    """Rows of a stack. members: ascending, in the view's own numbers; the tensors are views of the stack's rows."""

    members: list[int]
    rows: slice
    named: Mapping[str, Tensor]

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers together."""
        return {name: tensor.detach()[self.rows] for name, tensor in self.named.items()}

    def row_of(self, member: int) -> int:
        """Where a member stands. Raises ValueError if it has no row here."""
        return self.members.index(member)


@dataclass(frozen=True, slots=True)
class OptimizerView:
    """The optimizer's rows of the same members."""

    rows: Mapping[str, Rows]


class PopulationView:
    """Members `offset` to `offset + count - 1`, numbered from 0; whatever is done to them is done to the population's.

    The population trains and evaluates; see `esper.engine.epoch`.
    """

    def __init__(self, parent: Population, offset: int, count: int) -> None:
        self.parent, self.offset = parent, offset
        self.models = parent.models[offset : offset + count]
        self.initial_states = parent.initial_states[offset : offset + count]
        self.initial_structures = parent.initial_structures[offset : offset + count]
        self.device, self.dtype = parent.device, parent.dtype

    def __len__(self) -> int:
        return len(self.models)

    @property
    def stacks(self) -> dict[str, StackView]:
        """Those that have rows of these members."""
        views = {}
        for name, stack in self.parent.stacks.items():
            rows = slice(*(bisect_left(stack.members, end) for end in (self.offset, self.offset + len(self))))
            if mine := stack.members[rows]:
                views[name] = StackView([member - self.offset for member in mine], rows, stack.tensors())
        return views

    @property
    def optimizer(self) -> OptimizerView:
        """Views of what the optimizer holds of these members."""
        held = self.parent.optimizer.rows
        return OptimizerView({name: _cut(held[name], view) for name, view in self.stacks.items()})

    @property
    def halted(self) -> set[int]:
        """Members that train no further."""
        return {member - self.offset for member in self.parent.halted if 0 <= member - self.offset < len(self)}

    def halt(self, member: int) -> None:
        """Train a member no further."""
        self.parent.halt(self.offset + member)

    def release(self, member: int) -> None:
        """Train a halted member again."""
        self.parent.release(self.offset + member)

    def restart(self, hosts: Mapping[int, nn.Module]) -> None:
        """Give members fresh hosts."""
        self.parent.restart({self.offset + member: host for member, host in hosts.items()})

    def sync_topology(self) -> None:
        """Follow the members' slots."""
        self.parent.sync_topology()


Members = Population | PopulationView


def _cut(rows: Rows, view: StackView) -> Rows:
    cut = view.rows
    return replace(
        rows,
        members=view.members,
        learning_rate=rows.learning_rate[cut],
        weight_decay=rows.weight_decay[cut],
        steps=rows.steps[cut],
        counted=rows.counted[cut],
        clip_group=rows.clip_group[cut],
        moments={kind: {n: moment[cut] for n, moment in moments.items()} for kind, moments in rows.moments.items()},
    )


def split(population: Population, counts: list[int]) -> list[Members]:
    """A view for each of so many members, in order; a population that is not divided is its own."""
    if len(counts) == 1:
        return [population]
    if sum(counts) != len(population):
        raise EngineError(f"{counts} members: the population has {len(population)}")
    firsts = torch.tensor([0, *counts]).cumsum(0).tolist()
    return [PopulationView(population, first, count) for first, count in zip(firsts, counts, strict=False)]

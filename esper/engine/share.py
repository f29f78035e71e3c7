"""Some members of a population, seen as a population of their own: one job among those that train together."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from esper.engine.optimizer import Rows
from esper.engine.population import Population
from esper.errors import EngineError


@dataclass(frozen=True, slots=True)
class StackShare:
    """Rows of a stack. members: ascending, in the share's own numbers; the tensors are views of the stack's rows."""

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
class OptimizerShare:
    """The optimizer's rows of the same members."""

    rows: Mapping[str, Rows]


class Share:
    """Members `first` to `first + count - 1`, numbered from 0; whatever is done to them is done to the population's.

    The population trains and evaluates; see `esper.engine.together`.
    """

    def __init__(self, whole: Population, first: int, count: int) -> None:
        self.whole, self.first = whole, first
        self.models = whole.models[first : first + count]
        self.initial_states = whole.initial_states[first : first + count]
        self.initial_structures = whole.initial_structures[first : first + count]
        self.device, self.dtype = whole.device, whole.dtype

    def __len__(self) -> int:
        return len(self.models)

    @property
    def stacks(self) -> dict[str, StackShare]:
        """Those that have rows of these members."""
        shares = {}
        for name, stack in self.whole.stacks.items():
            rows = slice(*(bisect_left(stack.members, end) for end in (self.first, self.first + len(self))))
            if mine := stack.members[rows]:
                shares[name] = StackShare([member - self.first for member in mine], rows, stack.tensors())
        return shares

    @property
    def optimizer(self) -> OptimizerShare:
        """Views of what the optimizer holds of these members."""
        held = self.whole.optimizer.rows
        return OptimizerShare({name: _cut(held[name], share) for name, share in self.stacks.items()})

    @property
    def halted(self) -> set[int]:
        """Members that train no further."""
        return {member - self.first for member in self.whole.halted if 0 <= member - self.first < len(self)}

    def halt(self, member: int) -> None:
        """Train a member no further."""
        self.whole.halt(self.first + member)

    def release(self, member: int) -> None:
        """Train a halted member again."""
        self.whole.release(self.first + member)

    def restart(self, hosts: Mapping[int, nn.Module]) -> None:
        """Give members fresh hosts."""
        self.whole.restart({self.first + member: host for member, host in hosts.items()})

    def sync_topology(self) -> None:
        """Follow the members' slots."""
        self.whole.sync_topology()


Members = Population | Share


def _cut(rows: Rows, share: StackShare) -> Rows:
    cut = share.rows
    return replace(
        rows,
        members=share.members,
        learning_rate=rows.learning_rate[cut],
        weight_decay=rows.weight_decay[cut],
        steps=rows.steps[cut],
        counted=rows.counted[cut],
        clip_group=rows.clip_group[cut],
        slots={slot: {n: moment[cut] for n, moment in moments.items()} for slot, moments in rows.slots.items()},
    )


def split(population: Population, counts: list[int]) -> list[Members]:
    """A share for each of so many members, in order; a population that is not divided is its own."""
    if len(counts) == 1:
        return [population]
    if sum(counts) != len(population):
        raise EngineError(f"{counts} members: the population has {len(population)}")
    firsts = torch.tensor([0, *counts]).cumsum(0).tolist()
    return [Share(population, first, count) for first, count in zip(firsts, counts, strict=False)]

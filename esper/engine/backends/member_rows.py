"""Rows of some members: of the hosts' weights, and of the seeds in a slot."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from esper.engine.fusion.blueprint_groups import Group
from esper.engine.stacks import HOST, ModuleStack

Carriers = list[tuple[Group, dict[str, Tensor], Tensor | None]]


class MemberRows:
    """Selecting rows of many small tensors costs as much as working on them: it is done once an evaluation.

    stacks: of the population, by name.
    """

    def __init__(self, stacks: Mapping[str, ModuleStack]) -> None:
        self._stacks = stacks
        self._selected: dict[tuple[str, tuple[int, ...]], Any] = {}

    def forget(self) -> None:
        """Select anew: weights or topology have changed."""
        self._selected.clear()

    def host(self, members: tuple[int, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        """The members' numbers as a tensor, and their hosts' weights."""
        return self._once(HOST, members, lambda: self._host(members))

    def carriers(self, slot: str, groups: Sequence[Group], members: tuple[int, ...]) -> Carriers:
        """Each group's rows of these members, their weights, and where they stand (None: everyone is there)."""
        return self._once(slot, members, lambda: _carriers(groups, members))

    def _once(self, what: str, members: tuple[int, ...], select: Callable[[], Any]) -> Any:
        if (what, members) not in self._selected:
            self._selected[what, members] = select()
        return self._selected[what, members]

    def _host(self, members: tuple[int, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        tensors = self._stacks[HOST].tensors()
        rows = torch.tensor(members, device=next(iter(tensors.values())).device)
        return rows, {name: tensor.index_select(0, rows) for name, tensor in tensors.items()}


def _carriers(groups: Sequence[Group], members: tuple[int, ...]) -> Carriers:
    place = {member: position for position, member in enumerate(members)}
    carriers: Carriers = []
    for group in groups:
        rows = [row for row, member in enumerate(group.stack.members) if member in place]
        if not rows:
            continue
        part, tensors = group, group.stack.tensors()
        pick = torch.tensor(rows, device=group.alpha.device)
        if len(rows) < len(group.stack.members):
            part = group.select(rows)
            tensors = {name: tensor.index_select(0, pick) for name, tensor in tensors.items()}
        positions = pick.new_tensor([place[group.stack.members[row]] for row in rows])
        carriers.append((part, tensors, None if len(rows) == len(members) else positions))
    return carriers

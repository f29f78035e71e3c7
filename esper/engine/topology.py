"""Topology: which modules the members have now, and the stacks that hold their weights side by side."""

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager

from torch import Tensor, nn

from esper.engine.optimizer import StackedOptimizer
from esper.engine.stacks import HOST, ModuleStack
from esper.kasmina.host import MorphogeneticModel


class Topology:
    """Stacks by name ("host", "slots.<slot>.<blueprint>", "slots.<slot>.gate"), and the optimizer that follows them.

    `version` counts their changes.
    """

    def __init__(self, models: Sequence[MorphogeneticModel], optimizer: StackedOptimizer) -> None:
        self._models, self._optimizer = models, optimizer
        self.stacks: dict[str, ModuleStack] = {}
        self.version = 0
        self.is_channels_last = False

    def lay(self, is_channels_last: bool, hosts: Mapping[int, nn.Module] | None = None) -> None:
        """Lay what is held, or at first these hosts, side by side anew; the optimizer's state stays."""
        self.is_channels_last = is_channels_last
        held = {HOST: hosts} if hosts is not None else {name: _by_member(s) for name, s in self.stacks.items()}
        slots = [f"slots.{position}" for position in self._models[0].slot_positions.values()]
        for name, modules in held.items():
            self.stacks[name] = ModuleStack(modules, slots if name == HOST else (), is_channels_last)
            self._optimizer.track(name, self.stacks[name], set())
        self.version += 1

    def sync(self) -> None:
        """Follow the members: seeds that were planted or removed, weights that were put in the place of others."""
        self.adopt()
        wanted = self._planted()
        for name in [name for name in self.stacks if name != HOST and name not in wanted]:
            del self.stacks[name]
            self._optimizer.forget(name)
            self.version += 1
        for name, modules in sorted(wanted.items()):
            known = _by_member(self.stacks[name]) if name in self.stacks else {}
            if known == modules:
                continue
            self.stacks[name] = ModuleStack(modules, is_channels_last=self.is_channels_last)
            newborn = {member for member, module in modules.items() if known.get(member) is not module}
            self._optimizer.track(name, self.stacks[name], newborn)
            self.version += 1
        # In one order, whatever the order of planting: sums over stacks must not depend on a run's history.
        ordered = {name: self.stacks[name] for name in (HOST, *sorted(wanted))}
        self.stacks.clear()
        self.stacks.update(ordered)

    def adopt(self) -> None:
        """Take over what networks, or who has them, have put in the place of their tensors."""
        for stack in self.stacks.values():
            stack.adopt()

    def copy_hosts(self, hosts: Mapping[int, nn.Module]) -> None:
        """Copy these hosts' weights and buffers into the rows of members."""
        fresh = {e: {**dict(host.named_parameters()), **dict(host.named_buffers())} for e, host in hosts.items()}
        for name, tensor in self.stacks[HOST].tensors().items():
            for member, tensors in fresh.items():
                tensor[member].copy_(tensors[name])  # every member has a host: its row is its number

    @contextmanager
    def standing(self, halted: Set[int]) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """At the end, running statistics of members that are halted and seeds that are passed by are as before.

        A program moves them with those of all others. What is to be put back is given, to be added to.
        """
        kept = self.statistics(halted)
        yield kept
        for row, before in reversed(kept):  # of two copies of a row, the earlier counts
            row.copy_(before)

    def statistics(self, members: Set[int]) -> list[tuple[Tensor, Tensor]]:
        """Rows of buffers of these members and of seeds that are passed by, each with a copy of it."""
        return [
            (buffer[row], buffer[row].clone())
            for name, stack in self.stacks.items()
            for row, member in enumerate(stack.members)
            if member in members or self._is_passed_by(name, member)
            for buffer in stack.buffers.values()
        ]

    def _planted(self) -> dict[str, dict[int, nn.Module]]:
        """Seeds and gates by the name of the stack that is to hold them, and by member."""
        planted: dict[str, dict[int, nn.Module]] = {}
        for member, model in enumerate(self._models):
            for name, slot in model.slots.items():
                if slot.seed is not None and slot.state is not None:
                    planted.setdefault(f"slots.{name}.{slot.state.blueprint_id}", {})[member] = slot.seed
                if slot.gate is not None:
                    planted.setdefault(f"slots.{name}.gate", {})[member] = slot.gate
        return planted

    def _is_passed_by(self, stack: str, member: int) -> bool:
        return stack != HOST and not self._models[member].slots[stack.split(".")[1]].computes


def _by_member(stack: ModuleStack) -> dict[int, nn.Module]:
    return dict(zip(stack.members, stack.modules, strict=True))

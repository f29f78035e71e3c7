"""Which members carry which blueprint in which slot, and what an epoch does with each of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from esper.engine.fusion.tracing import Program
from esper.engine.stacks import HOST, ModuleStack
from esper.kasmina.host import MorphogeneticModel
from esper.kasmina.slot import SeedSlot
from esper.leyline import SeedStage


@dataclass(slots=True)
class Group:
    """Members with one blueprint in one slot, trained together like experts of a mixture.

    Row k belongs to stack.members[k]. alpha [T, k] is the blend at each step of the epoch, alpha_now [k] the present
    one. straight_through [k] is 1 where gradient passes straight to the seed, upstream_rows [k] where it passes
    upstream, is_finite [k] while the seed stayed finite. gate_rows [g] are the rows whose blend is gated, gate_index
    [g] their places in the gate's stack. is_open: whether any gradient goes upstream.
    """

    name: str
    program: Program
    stack: ModuleStack
    index: Tensor | None  # [k]; None when every member is in the group
    alpha: Tensor
    alpha_now: Tensor
    straight_through: Tensor
    upstream_rows: Tensor
    is_finite: Tensor
    gate: ModuleStack | None
    gate_rows: Tensor
    gate_index: Tensor
    is_open: bool

    def update(self, slots: Sequence[SeedSlot], steps: int) -> None:
        """Write this epoch's values in place (a captured graph reads the same memory again)."""
        table = [[slot.alpha_at(step) for slot in slots] for step in range(steps + 1)]
        self.alpha[: steps + 1].copy_(torch.tensor(table, dtype=self.alpha.dtype))
        self.alpha[:, [row for row, slot in enumerate(slots) if not slot.computes]] = 0.0  # these are passed by
        trains = [slot.computes and slot.stage is SeedStage.TRAINING for slot in slots]
        closed = [is_isolated(slot) for slot in slots]
        self.straight_through.copy_(torch.tensor(trains))
        self.upstream_rows.copy_(~torch.tensor(closed))
        self.is_finite.fill_(1)
        self.update_alpha_now(slots)

    def select(self, rows: Sequence[int]) -> "Group":
        """These rows alone, for evaluation."""
        picks = torch.tensor(rows, device=self.alpha.device)
        place = {row: position for position, row in enumerate(rows)}
        gated = zip(self.gate_rows.tolist(), self.gate_index.tolist(), strict=True)
        kept = [(place[row], pick) for row, pick in gated if row in place]
        return replace(
            self,
            alpha_now=self.alpha_now[picks],
            straight_through=self.straight_through[picks],
            gate=self.gate if kept else None,
            gate_rows=picks.new_tensor([row for row, _ in kept]),
            gate_index=picks.new_tensor([pick for _, pick in kept]),
        )

    def update_alpha_now(self, slots: Sequence[SeedSlot]) -> None:
        """Take over the present blend of each seed."""
        self.alpha_now.copy_(
            torch.tensor([slot.alpha if slot.computes else 0.0 for slot in slots], dtype=self.alpha.dtype)
        )


def signature(slots: dict[str, list[SeedSlot]]) -> tuple[object, ...]:
    """Equal as long as the same work is to be done on the same stacks: the same gates and ways upstream."""
    return tuple(
        (name, member, _is_gated(slot), not is_isolated(slot))
        for name, members in slots.items()
        for member, slot in enumerate(members)
        if slot.seed is not None
    )


def make_group(
    name: str,
    stack: ModuleStack,
    program: Program,
    slots: Sequence[SeedSlot],
    gate: ModuleStack | None,
    members: int,
    steps: int,
    like: Tensor,
) -> Group:
    """A group for epochs of up to `steps` steps. slots: one a row of the stack; like: gives dtype and device."""
    count = len(stack.members)
    gated = [row for row, slot in enumerate(slots) if _is_gated(slot)]
    picks = [] if gate is None else [gate.row_of(stack.members[row]) for row in gated]
    group = Group(
        name=name,
        program=program,
        stack=stack,
        index=None if count == members else torch.tensor(stack.members, device=like.device),
        alpha=like.new_zeros(steps + 1, count),
        alpha_now=like.new_zeros(count),
        straight_through=like.new_zeros(count),
        upstream_rows=like.new_zeros(count),
        is_finite=like.new_ones(count),
        gate=gate if gated else None,
        gate_rows=torch.tensor(gated, device=like.device),
        gate_index=torch.tensor(picks, device=like.device),
        is_open=any(not is_isolated(slot) for slot in slots),
    )
    group.update(slots, steps)
    return group


def _is_gated(slot: SeedSlot) -> bool:
    return slot.computes and slot.gate is not None and slot.stage in (SeedStage.BLENDING, SeedStage.CULLED)


def is_isolated(slot: SeedSlot) -> bool:
    """Whether no gradient of the slot's seed goes upstream."""
    return slot.stage is SeedStage.TRAINING and slot.isolate_gradients


def trained_stacks(stacks: Mapping[str, ModuleStack], models: Sequence[MorphogeneticModel]) -> list[str]:
    """Names of the stacks that a training step has gradients for: all but gates that gate nothing just now."""
    gated = {f"slots.{name}.gate" for model in models for name, slot in model.slots.items() if _is_gated(slot)}
    return [name for name in stacks if not name.endswith(".gate") or name in gated]


def row_roles(
    stacks: Mapping[str, ModuleStack], models: Sequence[MorphogeneticModel]
) -> tuple[dict[str, list[bool]], dict[str, list[bool]]]:
    """Per stack of seeds or gates: which rows take no part in training now, and which are seeds in isolation."""
    idle, isolated = {}, {}
    for name, stack in stacks.items():
        if name == HOST:
            continue
        slots = [models[member].slots[name.split(".")[1]] for member in stack.members]
        if name.endswith(".gate"):
            idle[name] = [not _is_gated(slot) for slot in slots]
        else:
            idle[name] = [not slot.computes for slot in slots]
            isolated[name] = [is_isolated(slot) for slot in slots]
    return idle, isolated

"""Training every member in one pass: host and seeds as programs over stacked weights."""

import itertools
from collections.abc import Iterator, Mapping, Sequence, Set

import torch
from torch import Tensor

from esper.engine.backends.base import FUSED, Backward
from esper.engine.backends.member_rows import MemberRows
from esper.engine.fusion.blueprint_groups import Group, make_group, signature, trained_stacks
from esper.engine.fusion.fusable import HostWatch, check_plain
from esper.engine.fusion.host_program import host_program, make_layout
from esper.engine.fusion.seed_ops import blend, isolate, scatter
from esper.engine.fusion.tracing import Captured, Program
from esper.engine.stacks import HOST, ModuleStack
from esper.errors import EngineError
from esper.kasmina.base import like
from esper.kasmina.host import MorphogeneticModel
from esper.kasmina.slot import SeedSlot
from esper.leyline import CROSS_ENTROPY


class FusedEngine:
    """Runs all members of a population as one program.

    stacks: the population's stacks by name, "host" and "slots.<slot>.<blueprint>" and "slots.<slot>.gate"; the mapping
    is read anew after every change of topology. halted: members that train no further.
    """

    kind = FUSED

    def __init__(
        self,
        models: Sequence[MorphogeneticModel],
        stacks: Mapping[str, ModuleStack],
        halted: Set[int],
        precision: torch.dtype,
        loss: str = CROSS_ENTROPY,
    ) -> None:
        self.models = models
        self.loss = loss
        self.stacks = stacks
        self.halted = halted
        self.precision = precision
        self.layout = make_layout(models[0].host.topology)
        self.host = host_program(models, self.layout)
        self.watch = HostWatch([model.host for model in models])
        self.programs: dict[str, Program] = {}  # of every blueprint that was ever in a slot
        self.groups: dict[str, list[Group]] = {}
        self.signature: tuple[object, ...] = ()
        self.leaves: dict[str, dict[str, Tensor]] = {}
        self.steps = 0
        self.generation = 0
        self._rows = MemberRows(stacks)

    # ---- what is to be done

    def prepare(self, steps: int, version: int, seeds: Sequence[int] | None = None, training: bool = True) -> None:
        """See `Engine.prepare`; layers that draw are never fused."""
        if self.watch.has_changed():
            raise EngineError(
                "a host was changed since its population was made (a hook, an attribute), and the fused engine cannot "
                "follow; make a new population, or use kind='sequential'"
            )
        held = [model.slots for model in self.models]
        slots = {name: [each[name] for each in held] for name in held[0]}
        work = (version, signature(slots))
        changed = work != self.signature or steps > self.steps
        self._rows.forget()
        if changed:
            self.signature, self.steps = work, steps
            self.generation += 1
            self.groups = {name: self._groups(name, members) for name, members in slots.items()}
        else:
            for group in self._all_groups():
                group.update(self._slots_of(group), steps)
        if training:
            self._choose_leaves()

    def _choose_leaves(self) -> None:
        """Parameters that are to be trained. Raises EngineError where some rows of one are, and others are not."""
        leaves: dict[str, dict[str, Tensor]] = {}
        for name in trained_stacks(self.stacks, self.models):
            for parameter, rows in self.stacks[name].trained_rows().items():
                if any(rows) and not all(rows):
                    raise EngineError(f"{parameter} is frozen in some members and trained in others: kind='sequential'")
                stack = self.stacks[name].parameters[parameter]
                if stack.requires_grad != rows[0]:
                    stack.requires_grad_(rows[0])
                    self.generation += 1
                if rows[0]:
                    leaves.setdefault(name, {})[parameter] = stack
        self.leaves = leaves

    def _groups(self, slot: str, members: Sequence[SeedSlot]) -> list[Group]:
        groups = []
        example = like(self.models[0].host).detach()
        for name, stack in self.stacks.items():
            if not name.startswith(f"slots.{slot}.") or name.endswith(".gate"):
                continue
            for module in stack.modules:
                check_plain(module)
            if name not in self.programs:
                self.programs[name] = Program(stack.modules[0], self.layout)
            gate = self.stacks.get(f"slots.{slot}.gate")
            carriers = [members[member] for member in stack.members]
            group = make_group(name, stack, self.programs[name], carriers, gate, len(self.models), self.steps, example)
            groups.append(group)
        return groups

    def _all_groups(self) -> Iterator[Group]:
        return itertools.chain.from_iterable(self.groups.values())

    def _slots_of(self, group: Group) -> list[SeedSlot]:
        slot = group.name.split(".")[1]
        return [self.models[member].slots[slot] for member in group.stack.members]

    # ---- training

    def to_layout(self, x: Tensor) -> Tensor:
        """See `Engine.to_layout`."""
        return self.layout.to_layout(x)

    def losses(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See `Engine.losses`."""
        return self.layout.losses(outputs, y, self.loss)

    def backward(self, x: Tensor, y: Tensor, step: int | Tensor) -> Backward:
        """See `Engine.backward`."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision is torch.bfloat16):
            logits = self.host.run(
                {self.host.input: x},
                self.stacks[HOST].tensors(),
                True,
                lambda slot, h: self._train_slot(slot, h, step),
            )
        losses, hits = self.losses(logits, y)
        flat = [leaf for named in self.leaves.values() for leaf in named.values()]
        # What is not in the pass has no gradient; a frozen network without seeds has none at all.
        found = (
            torch.autograd.grad(losses.sum(), flat, allow_unused=True) if losses.requires_grad else [None] * len(flat)
        )
        grads = iter(found)
        gradients = {
            stack: {name: grad for name in named if (grad := next(grads)) is not None}
            for stack, named in self.leaves.items()
        }
        return Backward(gradients, losses.detach(), hits)

    def _train_slot(self, slot: str, h: Tensor, step: int | Tensor) -> Tensor:
        pieces = []
        for group in self.groups[slot]:
            x = h if group.index is None else h.index_select(0, group.index)
            features = isolate(x, group.upstream_rows) if group.is_open else x.detach()
            alpha = group.alpha[step] if isinstance(step, int) else group.alpha.index_select(0, step)[0]
            out, is_finite = self._seed_output(group, x, features, alpha, group.stack.tensors(), True)
            group.is_finite.mul_(is_finite)
            pieces.append(out)
        return scatter(h, [group.index for group in self.groups[slot]], pieces)

    def _seed_output(
        self, group: Group, x: Tensor, features: Tensor, alpha: Tensor, tensors: Mapping[str, Tensor], training: bool
    ) -> tuple[Tensor, Tensor]:
        seed = group.program.run({group.program.input: features}, tensors, training)
        if group.gate is None:
            return blend(x, seed.to(x.dtype), alpha, group.straight_through)
        alpha = self._gated(alpha, features, group, group.gate)
        is_sound = alpha.detach().isfinite().flatten(1).all(1)  # a gate that broke blends nothing
        alpha = torch.where(is_sound.view(-1, *(1,) * (alpha.dim() - 1)), alpha, 0.0)
        out, is_finite = blend(x, seed.to(x.dtype), alpha, group.straight_through)
        return out, is_finite * is_sound

    def _gated(self, ramp: Tensor, features: Tensor, group: Group, gate_stack: ModuleStack) -> Tensor:
        """The rule of `esper.kasmina.blending.BlendGate` in the gated rows, the ramp elsewhere; [k, ...]."""
        weight, bias = (
            gate_stack.parameters[name].index_select(0, group.gate_index) for name in ("linear.weight", "linear.bias")
        )
        gate = self.layout.gate(features.index_select(0, group.gate_rows), weight, bias)
        ramp = ramp.view(-1, *(1,) * (features.dim() - 1))
        p = ramp.index_select(0, group.gate_rows)
        gated = p + 2 * p * (1 - p) * (gate - 0.5)
        whole = ramp.expand(-1, *gated.shape[1:])
        return whole.index_copy(0, group.gate_rows, gated.to(ramp.dtype))

    def finish(self, steps: int) -> None:
        """See `Engine.finish`; waits for the device."""
        for stack_name, stack in self.stacks.items():
            program = self.host if stack_name == HOST else self.programs.get(stack_name)
            for name, calls in program.calls.items() if program is not None else ():
                stack.buffers[name] += steps * calls
        for member, model in enumerate(self.models):
            for slot in model.slots.values() if member not in self.halted else ():
                slot.step(steps)
        for group in self._all_groups():
            for slot, is_finite in zip(self._slots_of(group), group.is_finite.tolist(), strict=True):
                slot.seed_is_finite = bool(is_finite)

    # ---- evaluation

    @torch.no_grad()
    def logits(self, x: Tensor, captured: Captured) -> Tensor:
        """See `Engine.logits`."""
        everyone = tuple(range(len(self.models)))
        return self.host.run(
            {self.host.input: x},
            self.stacks[HOST].tensors(),
            False,
            lambda slot, h: self._evaluate_slot(slot, h, everyone),
            captured=captured,
        )

    @torch.no_grad()
    def logits_without(self, slot: str, members: Sequence[int], captured: Captured) -> Tensor:
        """See `Engine.logits_without`: only the host behind the slot runs again, for these members."""
        chosen = tuple(members)
        rows, tensors = self._rows.host(chosen)
        count = len(self.models)
        values = {n: v.index_select(0, rows) if v.shape[0] == count else v for n, v in captured[slot].items()}
        return self.host.run(
            values,
            tensors,
            False,
            lambda name, h: h if name == slot else self._evaluate_slot(name, h, chosen),
            start=self.host.slots[slot],
        )

    def _evaluate_slot(self, slot: str, h: Tensor, members: tuple[int, ...]) -> Tensor:
        """h [len(members), ...]: the seeds that these members have in the slot."""
        out = h
        for part, tensors, positions in self._rows.carriers(slot, self.groups[slot], members):
            x = h if positions is None else h.index_select(0, positions)
            result, _ = self._seed_output(part, x, x, part.alpha_now, tensors, False)
            if positions is None:
                return result
            out = h.clone() if out is h else out
            out.index_copy_(0, positions, result)
        return out

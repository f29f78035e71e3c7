"""SGD with momentum and AdamW over stacks, one row a network: equal to `torch.optim`, network by network.

Learning rate, weight decay and step count are a row's own: seeds are born at different epochs, and members of a sweep
have different values. A row whose learning rate is 0 stands still.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from esper.engine.optimizer_step import Rows, StepPlan
from esper.engine.stacks import ModuleStack
from esper.errors import EngineError
from esper.leyline import OptimizerConfig

__all__ = ["OptimizerConfig", "StackedOptimizer"]


class StackedOptimizer:
    """Trains stacks by name. `track` must follow every change of a stack's members."""

    def __init__(self, configs: Sequence[OptimizerConfig], device: torch.device, dtype: torch.dtype) -> None:
        """configs [M]: a member's own, which differ in learning rate and weight decay alone; else EngineError."""
        self.config = configs[0]
        for member, own in enumerate(configs):
            if own != replace(self.config, learning_rate=own.learning_rate, weight_decay=own.weight_decay):
                raise EngineError(f"member {member}: members share an optimizer but for learning rate and weight decay")
        rates, decays = [c.learning_rate for c in configs], [c.weight_decay for c in configs]
        dtype = accurate(dtype)
        self.member_learning_rate = torch.tensor(rates, dtype=dtype, device=device)
        self.member_weight_decay = torch.tensor(decays, dtype=dtype, device=device)
        self.rows: dict[str, Rows] = {}
        self._halted_rates: dict[int, float] = {}  # what a halted member trained at
        self._plans: dict[tuple[tuple[str, ...], ...], StepPlan] = {}

    def track(self, name: str, stack: ModuleStack, newborn: set[int]) -> None:
        """Take on a stack, or follow it: rows of members that stayed keep their state, newborn rows start afresh."""
        like = self.member_learning_rate
        index = torch.tensor(stack.members, device=like.device)
        old = self.rows.get(name)
        kinds = ("momentum",) if self.config.name == "sgd" else ("exp_avg", "exp_avg_sq")
        rows = Rows(
            members=list(stack.members),
            parameters=list(stack.parameters),
            learning_rate=like[index],
            weight_decay=self.member_weight_decay[index],
            steps=like.new_zeros(len(stack.members), len(stack.parameters)),
            counted=like.new_ones(len(stack.members)),
            clip_group=index.clone(),
            moments={
                kind: {n: torch.zeros_like(real(p), dtype=accurate(real(p).dtype)) for n, p in stack.parameters.items()}
                for kind in kinds
            },
        )
        for row, member in enumerate(stack.members):
            if old is not None and member in old.members and member not in newborn:
                source = old.members.index(member)
                rows.steps[row] = old.steps[source]
                for kind, moments in rows.moments.items():
                    for n, moment in moments.items():
                        moment[row] = old.moments[kind][n][source]
        self.rows[name] = rows
        self._plans.clear()

    def forget(self, name: str) -> None:
        """Drop a stack that no member needs any more."""
        self.rows.pop(name, None)
        self._plans.clear()

    def halt(self, member: int) -> None:
        """Train a member no further."""
        if member not in self._halted_rates:
            self._halted_rates[member] = self.member_learning_rate[member].item()
        self._set_rate(member, 0.0)

    def release(self, member: int) -> None:
        """Train a halted member again."""
        self._set_rate(member, self._halted_rates.pop(member))

    def _set_rate(self, member: int, rate: float) -> None:
        self.member_learning_rate[member] = rate
        for rows in self.rows.values():
            if member in rows.members:
                rows.learning_rate[rows.members.index(member)] = rate
        self._plans.clear()

    def scale_rates(self, factors: Sequence[float]) -> None:
        """From now on each member trains at this share of its learning rate [M]; written in place."""
        scaled = self.member_learning_rate * torch.tensor(factors).to(self.member_learning_rate)
        for rows in self.rows.values():
            rows.learning_rate.copy_(scaled[rows.members])

    def restart(self, name: str, members: Sequence[int]) -> None:
        """Forget what was learned about these members' rows of a stack."""
        rows = self.rows[name]
        index = [rows.members.index(member) for member in members]
        rows.steps[index] = 0.0
        for moments in rows.moments.values():
            for moment in moments.values():
                moment[index] = 0.0

    def begin_epoch(self, idle: Mapping[str, Sequence[bool]], isolated: Mapping[str, Sequence[bool]]) -> None:
        """Say which rows take no part in this epoch, and which are seeds in isolation; written in place."""
        group = len(self.member_learning_rate)
        for name, rows in self.rows.items():
            standing = rows.learning_rate == 0
            away = torch.tensor(idle.get(name, [False] * len(rows.members)), device=standing.device)
            rows.counted.copy_(~(standing | away))
            # A row that takes no part does not decay either.
            rows.weight_decay.copy_(self.member_weight_decay[rows.members] * ~away)
            alone = isolated.get(name, [False] * len(rows.members))
            own = [
                group + row if by_itself else member
                for row, (member, by_itself) in enumerate(zip(rows.members, alone, strict=True))
            ]
            rows.clip_group.copy_(torch.tensor(own))
            group += len(rows.members)

    @torch.no_grad()
    def step(
        self,
        stacks: Mapping[str, ModuleStack],
        gradients: Mapping[str, Mapping[str, Tensor]],
        absent: Mapping[str, Mapping[str, Sequence[int]]] | None = None,
    ) -> None:
        """One step of every parameter that has a gradient: stack -> parameter -> [R, ...].

        absent: the rows of a parameter that took no part, which stay exactly as they are.
        """
        if not any(gradients.values()):
            return
        kept = self._rows_of(stacks, absent or {})
        before = [row.clone() for row in kept]
        key = tuple((name, *named) for name, named in gradients.items())
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._plan(stacks, gradients)
        if plan.is_converted:
            gradients = {
                name: {parameter: _added(grad) for parameter, grad in named.items()}
                for name, named in gradients.items()
            }
        if self.config.clip_norm is not None:
            gradients = self._clipped(gradients, self.config.clip_norm)
        for held, has_gradient in zip(plan.held, plan.has_gradient, strict=True):
            held.steps.addcmul_(held.counted.unsqueeze(1), has_gradient)
        flat = [grad for named in gradients.values() for grad in named.values()]
        if plan.halted_any:  # 0 times a gradient that is not finite would still reach the weights
            flat = [torch.where(rate > 0, grad, 0.0) for rate, grad in zip(plan.rates, flat, strict=True)]
        parameters = [_added(parameter) for parameter in plan.parameters] if plan.is_converted else plan.parameters
        (plan.sgd if self.config.name == "sgd" else plan.adamw)(self.config, parameters, flat)
        if plan.is_converted:
            for parameter, moved in zip(plan.parameters, parameters, strict=True):
                parameter.copy_(moved)
        for row, was in zip(kept, before, strict=True):
            row.copy_(was)

    def _rows_of(
        self, stacks: Mapping[str, ModuleStack], absent: Mapping[str, Mapping[str, Sequence[int]]]
    ) -> list[Tensor]:
        """Views of all that a step could change in these rows."""
        views = []
        for name, named in absent.items():
            held = self.rows[name]
            for parameter, rows in named.items():
                tensors = [stacks[name].parameters[parameter].detach(), held.steps[:, held.parameters.index(parameter)]]
                tensors += [moments[parameter] for moments in held.moments.values()]
                views += [tensor[row] for row in rows for tensor in tensors]
        return views

    def _plan(self, stacks: Mapping[str, ModuleStack], gradients: Mapping[str, Mapping[str, Tensor]]) -> StepPlan:
        plan = StepPlan()
        for name, named in gradients.items():
            held = self.rows[name]
            plan.held.append(held)
            plan.has_gradient.append(held.steps.new_tensor([[parameter in named for parameter in held.parameters]]))
            plan.unbiased.append(held.steps.new_ones(2, *held.steps.shape))
            plan.decays_any |= bool(self.member_weight_decay.any())
            plan.halted_any |= not bool(held.learning_rate.all())
            for parameter in named:
                weight = stacks[name].parameters[parameter]
                plan.is_converted |= weight.is_complex() or weight.dtype != accurate(weight.dtype)
                plan.parameters.append(real(weight))
                shape = (-1, *(1,) * (plan.parameters[-1].dim() - 1))
                plan.rates.append(held.learning_rate.view(shape))
                plan.decays.append(held.weight_decay.view(shape))
                place = held.parameters.index(parameter)
                for views, unbiased in zip(plan.corrections, plan.unbiased[-1], strict=True):
                    views.append(unbiased[:, place].view(shape))
                for kind, moments in held.moments.items():
                    plan.moments.setdefault(kind, []).append(moments[parameter])
        return plan

    def _clipped(self, gradients: Mapping[str, Mapping[str, Tensor]], limit: float) -> dict[str, dict[str, Tensor]]:
        groups = len(self.member_learning_rate) + sum(len(rows.members) for rows in self.rows.values())
        square = self.member_learning_rate.new_zeros(groups)
        indices = {name: self.rows[name].clip_group for name in gradients}
        for name, named in gradients.items():
            if not named:
                continue
            rows = torch.stack([flat_rows(g).square().sum(1).to(square.dtype) for g in named.values()]).sum(0)
            # A seed that is not finite is cut out of the host; it must not scale the host's gradients either.
            square.index_add_(0, indices[name], torch.where(torch.isfinite(rows), rows, 0.0))
        scale = (limit / (square.sqrt() + 1e-6)).clamp(max=1.0)
        return {
            name: {
                parameter: grad * scale[indices[name]].to(grad.dtype).view(-1, *(1,) * (grad.dim() - 1))
                for parameter, grad in named.items()
            }
            for name, named in gradients.items()
        }


def accurate(dtype: torch.dtype) -> torch.dtype:
    """What to hold moments and sums in: the dtype itself, or float32 where that is finer."""
    return torch.promote_types(dtype, torch.float32) if dtype.is_floating_point else dtype


def real(tensor: Tensor) -> Tensor:
    """The tensor, detached; complex numbers are pairs of real ones to an optimizer, as they are to torch's."""
    return torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()


def _added(tensor: Tensor) -> Tensor:
    """The tensor in a form and dtype that steps can be added to."""
    pairs = real(tensor)
    return pairs.to(accurate(pairs.dtype))


def flat_rows(tensor: Tensor) -> Tensor:
    """[R, ...] -> [R, n], for rows of any shape: single numbers and nothing at all, too."""
    return tensor.unsqueeze(-1).flatten(1)

"""SGD with momentum and AdamW over stacks, one row a network: equal to `torch.optim`, network by network.

Learning rate, weight decay and step count are a row's own: seeds are born at different epochs, and members of a sweep
have different values. A row whose learning rate is 0 stands still.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from esper.engine.stacks import ModuleStack
from esper.errors import EngineError


@dataclass(slots=True, kw_only=True)
class OptimizerConfig:
    """SGD reads momentum, AdamW betas and eps.

    clip_norm: largest gradient norm of a member together with its seeds; a seed in isolation is clipped by itself.
    """

    name: str = "sgd"
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip_norm: float | None = None


@dataclass(slots=True)
class Rows:
    """What the optimizer holds of one stack; `slots` are its moments: slot -> parameter -> [R, ...]."""

    members: list[int]
    learning_rate: Tensor  # [R]
    weight_decay: Tensor  # [R]
    steps: Tensor  # [R]
    counted: Tensor  # [R], 1 where a step counts: 0 in rows that take no part, or stand still
    clip_group: Tensor  # [R], rows of one group are clipped together
    slots: dict[str, dict[str, Tensor]] = field(default_factory=dict)


@dataclass(slots=True)
class _Plan:
    parameters: list[Tensor] = field(default_factory=list)
    rates: list[Tensor] = field(default_factory=list)
    decays: list[Tensor] = field(default_factory=list)
    steps: list[Tensor] = field(default_factory=list)
    slots: dict[str, list[Tensor]] = field(default_factory=dict)
    counts: list[Tensor] = field(default_factory=list)
    counted: list[Tensor] = field(default_factory=list)
    decays_any: bool = False
    halted_any: bool = False


class StackedOptimizer:
    """Trains stacks by name. `track` must follow every change of a stack's members."""

    def __init__(self, configs: Sequence[OptimizerConfig], device: torch.device, dtype: torch.dtype) -> None:
        """configs [M]: a member's own, which differ in learning rate and weight decay alone; else EngineError."""
        self.config = configs[0]
        for member, own in enumerate(configs):
            if own != replace(self.config, learning_rate=own.learning_rate, weight_decay=own.weight_decay):
                raise EngineError(f"member {member}: members share an optimizer but for learning rate and weight decay")
        rates, decays = [c.learning_rate for c in configs], [c.weight_decay for c in configs]
        self.member_learning_rate = torch.tensor(rates, dtype=dtype, device=device)
        self.member_weight_decay = torch.tensor(decays, dtype=dtype, device=device)
        self.rows: dict[str, Rows] = {}
        self._halted_rates: dict[int, float] = {}  # what a halted member trained at
        self._plans: dict[tuple[str, ...], _Plan] = {}

    def track(self, name: str, stack: ModuleStack, newborn: set[int]) -> None:
        """Take on a stack, or follow it: rows of members that stayed keep their state, newborn rows start afresh."""
        device = self.member_learning_rate.device
        index = torch.tensor(stack.members, device=device)
        old = self.rows.get(name)
        slots = ("momentum",) if self.config.name == "sgd" else ("exp_avg", "exp_avg_sq")
        rows = Rows(
            members=list(stack.members),
            learning_rate=self.member_learning_rate[index],
            weight_decay=self.member_weight_decay[index],
            steps=torch.zeros(len(stack.members), dtype=self.member_learning_rate.dtype, device=device),
            counted=torch.ones(len(stack.members), dtype=self.member_learning_rate.dtype, device=device),
            clip_group=index.clone(),
            slots={slot: {n: torch.zeros_like(p) for n, p in stack.parameters.items()} for slot in slots},
        )
        for row, member in enumerate(stack.members):
            if old is not None and member in old.members and member not in newborn:
                source = old.members.index(member)
                rows.steps[row] = old.steps[source]
                for slot, moments in rows.slots.items():
                    for n, moment in moments.items():
                        moment[row] = old.slots[slot][n][source]
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
        for moments in rows.slots.values():
            for moment in moments.values():
                moment[index] = 0.0

    def begin_epoch(self, idle: Mapping[str, Sequence[bool]], isolated: Mapping[str, Sequence[bool]]) -> None:
        """Say which rows take no part in this epoch, and which are seeds in isolation; written in place."""
        group = len(self.member_learning_rate)
        for name, rows in self.rows.items():
            standing = rows.learning_rate == 0
            away = torch.tensor(idle.get(name, [False] * len(rows.members)), device=standing.device)
            rows.counted.copy_(~(standing | away))
            alone = isolated.get(name, [False] * len(rows.members))
            own = [
                group + row if by_itself else member
                for row, (member, by_itself) in enumerate(zip(rows.members, alone, strict=True))
            ]
            rows.clip_group.copy_(torch.tensor(own))
            group += len(rows.members)

    @torch.no_grad()
    def step(self, stacks: Mapping[str, ModuleStack], gradients: Mapping[str, Mapping[str, Tensor]]) -> None:
        """One step of every stack that has gradients: stack -> parameter -> [R, ...]."""
        if not gradients:
            return
        if self.config.clip_norm is not None:
            gradients = self._clipped(gradients, self.config.clip_norm)
        plan = self._plans.get(tuple(gradients)) or self._plan(stacks, gradients)
        torch._foreach_add_(plan.counts, plan.counted)
        grads = [grad for named in gradients.values() for grad in named.values()]
        if plan.halted_any:  # 0 times a gradient that is not finite would still reach the weights
            grads = [torch.where(rate > 0, grad, 0.0) for rate, grad in zip(plan.rates, grads, strict=True)]
        (self._sgd if self.config.name == "sgd" else self._adamw)(plan, grads)

    def _plan(self, stacks: Mapping[str, ModuleStack], gradients: Mapping[str, Mapping[str, Tensor]]) -> "_Plan":
        """The lists of tensors that a step works on; they stay the same until a stack changes."""
        plan = _Plan()
        for name, named in gradients.items():
            held = self.rows[name]
            plan.counts.append(held.steps)
            plan.counted.append(held.counted)
            plan.decays_any |= bool(held.weight_decay.any())
            plan.halted_any |= not bool(held.learning_rate.all())
            for parameter, grad in named.items():
                shape = (-1, *(1,) * (grad.dim() - 1))
                plan.parameters.append(stacks[name].parameters[parameter].detach())
                plan.rates.append(held.learning_rate.view(shape))
                plan.decays.append(held.weight_decay.view(shape))
                plan.steps.append(held.steps.view(shape))
                for slot, moments in held.slots.items():
                    plan.slots.setdefault(slot, []).append(moments[parameter])
        self._plans[tuple(gradients)] = plan
        return plan

    def _sgd(self, plan: "_Plan", grads: list[Tensor]) -> None:
        if plan.decays_any:
            grads = list(torch._foreach_addcmul(grads, plan.parameters, plan.decays))
        moments = plan.slots["momentum"]
        torch._foreach_mul_(moments, self.config.momentum)
        torch._foreach_add_(moments, grads)
        torch._foreach_addcmul_(plan.parameters, moments, plan.rates, value=-1)

    def _adamw(self, plan: "_Plan", grads: list[Tensor]) -> None:
        beta1, beta2 = self.config.betas
        first, second = plan.slots["exp_avg"], plan.slots["exp_avg_sq"]
        if plan.decays_any:
            torch._foreach_addcmul_(
                plan.parameters, plan.parameters, torch._foreach_mul(plan.rates, plan.decays), value=-1
            )
        torch._foreach_lerp_(first, grads, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, grads, grads, value=1 - beta2)
        steps = [step.clamp(min=1) for step in plan.steps]  # a row that stands still may never have stepped
        rates = [rate / (1 - beta1**step) for rate, step in zip(plan.rates, steps, strict=True)]
        spread = [s.sqrt() / (1 - beta2**step).sqrt() + self.config.eps for s, step in zip(second, steps, strict=True)]
        torch._foreach_addcmul_(plan.parameters, torch._foreach_div(first, spread), rates, value=-1)

    def _clipped(self, gradients: Mapping[str, Mapping[str, Tensor]], limit: float) -> dict[str, dict[str, Tensor]]:
        groups = len(self.member_learning_rate) + sum(len(rows.members) for rows in self.rows.values())
        square = self.member_learning_rate.new_zeros(groups)
        indices = {name: self.rows[name].clip_group for name in gradients}
        for name, named in gradients.items():
            rows = torch.stack([g.flatten(1).square().sum(1) for g in named.values()]).sum(0)
            # A seed that is not finite is cut out of the host; it must not scale the host's gradients either.
            square.index_add_(0, indices[name], torch.where(torch.isfinite(rows), rows, 0.0).to(square.dtype))
        scale = (limit / (square.sqrt() + 1e-6)).clamp(max=1.0)
        return {
            name: {
                parameter: grad * scale[indices[name]].to(grad.dtype).view(-1, *(1,) * (grad.dim() - 1))
                for parameter, grad in named.items()
            }
            for name, named in gradients.items()
        }

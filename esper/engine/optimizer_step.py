"""One step of SGD or AdamW over the rows of stacks: the tensors that it works on, and its arithmetic."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from esper.leyline import OptimizerConfig


@dataclass(slots=True)
class Rows:
    """What the optimizer holds of one stack; `moments`: kind -> parameter -> [R, ...].

    Moments, rates and steps are in float32 at least: in bfloat16 0.999 is 1, and nothing would move.
    """

    members: list[int]
    parameters: list[str]  # P, in the order of `steps`
    learning_rate: Tensor  # [R]
    weight_decay: Tensor  # [R]
    steps: Tensor  # [R, P]
    counted: Tensor  # [R], 1 where a step counts: 0 in rows that take no part, or stand still
    clip_group: Tensor  # [R], rows of one group are clipped together
    moments: dict[str, dict[str, Tensor]] = field(default_factory=dict)


@dataclass(slots=True)
class StepPlan:
    """The tensors that a step of some parameters works on; they stay the same until a stack changes.

    has_gradient [P] says per stack which of its parameters take part. corrections: views, one a parameter, of what
    AdamW writes of each stack's steps.
    """

    held: list[Rows] = field(default_factory=list)
    has_gradient: list[Tensor] = field(default_factory=list)
    parameters: list[Tensor] = field(default_factory=list)
    rates: list[Tensor] = field(default_factory=list)
    decays: list[Tensor] = field(default_factory=list)
    moments: dict[str, list[Tensor]] = field(default_factory=dict)
    unbiased: list[Tensor] = field(default_factory=list)  # [2, R, P] a stack: 1 - beta1^t, sqrt(1 - beta2^t)
    corrections: tuple[list[Tensor], list[Tensor]] = field(default_factory=lambda: ([], []))
    decays_any: bool = False
    halted_any: bool = False
    is_converted: bool = False  # parameters are complex, or too coarse to be added to

    def sgd(self, config: OptimizerConfig, parameters: list[Tensor], grads: list[Tensor]) -> None:
        """Moves the parameters, in place."""
        if self.decays_any:
            grads = list(torch._foreach_addcmul(grads, parameters, self.decays))
        moments = self.moments["momentum"]
        torch._foreach_mul_(moments, config.momentum)
        torch._foreach_add_(moments, grads)
        torch._foreach_addcmul_(parameters, moments, self.rates, value=-1)

    def adamw(self, config: OptimizerConfig, parameters: list[Tensor], grads: list[Tensor]) -> None:
        """Moves the parameters, in place."""
        beta1, beta2 = config.betas
        first, second = self.moments["exp_avg"], self.moments["exp_avg_sq"]
        if self.decays_any:
            kept = torch._foreach_mul(self.rates, self.decays)
            torch._foreach_neg_(kept)
            torch._foreach_add_(kept, 1)
            torch._foreach_mul_(parameters, kept)
        torch._foreach_lerp_(first, grads, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, grads, grads, value=1 - beta2)
        for held, unbiased in zip(self.held, self.unbiased, strict=True):
            steps = held.steps.double().clamp(min=1)  # a row that stands still may never have stepped
            unbiased[0].copy_(1 - beta1**steps)
            unbiased[1].copy_((1 - beta2**steps).sqrt())
        rates = torch._foreach_div(self.rates, self.corrections[0])
        spread = torch._foreach_div(torch._foreach_sqrt(second), self.corrections[1])
        torch._foreach_add_(spread, config.eps)
        # In the order in which torch rounds: then one row is what torch.optim makes of it, to the bit.
        torch._foreach_addcdiv_(parameters, torch._foreach_mul(first, rates), spread, value=-1)

"""What learners share that move a policy by acting: how a rollout is taken in, and how a step down a loss is made."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from esper.errors import LearnerError
from esper.leyline.ranks import share
from esper.simic.on_policy.acting import ActingPolicy
from esper.simic.on_policy.advantages import discounted_returns
from esper.simic.on_policy.rollout import Rollout
from esper.simic.on_policy.schedules import schedule

_LEAST_SCALE = 1e-3  # of returns that hardly differ


class PolicyLearner(ActingPolicy, ABC):
    """A policy that learns from rollouts of its own.

    Ranks that share a run each hold one, made and seeded alike, and all hand it the same rollout, of all members: what
    is drawn and what is averaged over members is then the same as in one process. Each learns from its share of every
    minibatch, and gradients, losses and divergence are added up.
    """

    @abstractmethod
    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from a rollout of the policy as it is; returns metrics."""

    def prepare_rollout(self, rollout: Rollout) -> Rollout:
        """The rollout on the learner's device; the first one as a policy that knows its scales would have seen it.

        Observations and returns are on no known scale before the first update, and to bring them there after it would
        undo what was learned. So both are taken from the rollout at hand: log-probabilities (of a policy that is still
        nearly its prior) are computed anew, and what is expected is the mean of the returns.
        """
        rollout = rollout.to(self.device)
        if self.return_moments.count:
            return rollout
        ends = rollout.terminated, rollout.truncated
        returns = discounted_returns(rollout.rewards, torch.zeros_like(rollout.rewards), *ends, self.settings.gamma)
        _check_returns(returns)
        mean = float(returns.mean())
        self.network.value_mean.fill_(mean)
        self.network.value_scale.fill_(max(float(returns.std(correction=0)), _LEAST_SCALE))
        self.normalizer.update(rollout.observations)
        self.normalizer.count.zero_()  # it counts once, when the update is finished
        observations = self.normalizer(rollout.observations)
        with torch.no_grad():
            log_probs = self.evaluate_actions(observations, rollout.masks, rollout.starts, rollout.memory)[0]
        is_over = rollout.terminated | (rollout.truncated & (not self.bootstrap_truncated))
        return replace(
            rollout,
            log_probs=log_probs.gather(-1, rollout.actions.unsqueeze(-1)).squeeze(-1),
            values=torch.full_like(rollout.values, mean),
            next_values=torch.full_like(rollout.values, mean).masked_fill(is_over, 0.0),
        )

    def scale_values(self, returns: Tensor) -> None:
        """Take in the returns of a rollout [T, M], and learn values on the scale of all returns from now on.

        Raises LearnerError where one is not finite, naming member and step; nothing is then changed.
        """
        _check_returns(returns)
        self.return_moments.update(returns.unsqueeze(-1))
        scale = max(float(self.return_moments.variance.sqrt()), _LEAST_SCALE)
        self.network.rescale_values(float(self.return_moments.mean), scale)

    def begin_update(self) -> tuple[float, float]:
        """Set this update's learning rate; returns it, and the entropy coefficient."""
        own = self.settings
        warmup = min(own.warmup_updates, own.updates - 1)  # a run that is cut short warms up for as long as it lasts
        rate = schedule(own.schedule, own.learning_rate, own.final_learning_rate, own.updates, warmup)(
            self.updates_done
        )
        entropy = schedule("linear", own.entropy_coefficient, own.final_entropy_coefficient, own.updates)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate, entropy(self.updates_done)

    def local_shard(self, values: Tensor, dim: int = 0) -> Tensor:
        """This rank's share along a dimension, possibly nothing."""
        mine = share(values.shape[dim], self.ranks)
        return values.narrow(dim, mine.start, len(mine))

    def sum_over_ranks(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the ranks' shares of some sums add up to, without their gradients."""
        values = torch.stack(list(parts.values())).detach()
        self.ranks.all_reduce([values])
        return dict(zip(parts, values, strict=True))

    def optimizer_step(self, loss: Tensor, **parts: Tensor) -> float:
        """One clipped step down the loss that all ranks' shares add up to; returns the gradient's norm before clipping.

        Args: loss: this rank's share; parts: of the whole loss. Raises LearnerError naming the part of the loss that is
        not finite, or the gradient; nothing is then changed.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        whole = loss.detach().clone()
        gradients = [gradient for parameter in self.network.parameters() if (gradient := parameter.grad) is not None]
        self.ranks.all_reduce([whole, *gradients])
        if not torch.isfinite(whole):
            named = ", ".join(f"{name} {float(part):g}" for name, part in parts.items())
            raise LearnerError(
                f"The loss of update {self.updates_done + 1} is {float(whole)} ({named}); expected a finite number. "
                "Lower policy.learning_rate, or look for huge rewards."
            )
        norm = float(nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.max_gradient_norm))
        if not norm < float("inf"):
            raise LearnerError(
                f"The gradient of update {self.updates_done + 1} has norm {norm}; expected a finite number. "
                "Lower policy.learning_rate, or look for huge rewards."
            )
        self.optimizer.step()
        return norm

    def finish_update(self, rollout: Rollout) -> None:
        """Take in what was observed: the next rollout is seen on the scale of everything so far."""
        self.normalizer.update(rollout.observations)
        self.updates_done += 1


def _check_returns(returns: Tensor) -> None:
    if not returns.isfinite().all():
        step, member = (~returns.isfinite()).nonzero()[-1].tolist()
        raise LearnerError(
            f"What follows step {step} of the rollout is worth {float(returns[step, member])} to member {member}; "
            "expected finite rewards and observations."
        )

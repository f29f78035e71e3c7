"""REINFORCE with a learned baseline.

Source: Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning".
"""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from esper.leyline import LEVELS, ActionLayout
from esper.leyline.ranks import ALONE, Ranks
from esper.simic.on_policy.advantages import discounted_returns, explained_variance, gae, normalized
from esper.simic.on_policy.base import PolicyLearner
from esper.simic.on_policy.config import LEARNERS, LearnedPolicyConfig
from esper.simic.on_policy.rollout import Rollout
from esper.simic.on_policy.schedules import schedule
from esper.simic.reinforce.config import ReinforcePolicyConfig


class ReinforceAgent(PolicyLearner):
    """One step of the policy up the gradient of each rollout's returns, and several of its baseline towards them.

    Decisions that left no choice carry no policy loss and no entropy, and do not count in the normalisation of
    advantages; they still teach the baseline.
    """

    kind: ClassVar[str] = "reinforce"
    settings_type: ClassVar[type[LearnedPolicyConfig]] = ReinforcePolicyConfig
    settings: ReinforcePolicyConfig

    def begin_update(self) -> tuple[float, float]:
        """Set this update's learning rate; returns it, and the entropy coefficient on its way to its floor."""
        rate, _ = super().begin_update()
        own = self.settings
        decay_updates = max(1, round(own.entropy_decay * own.updates))
        entropy = schedule("linear", own.entropy_coefficient, own.final_entropy_coefficient, decay_updates)
        return rate, entropy(self.updates_done)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from a rollout of the policy as it is.

        Returns policy_loss, value_loss (in variances of returns) and explained_variance, all before the update; entropy
        (of a free decision, in nats; of growth also entropy_<level>), gradient_norm before clipping, learning_rate,
        entropy_coefficient, forced_share.
        Raises LearnerError where a reward, loss or gradient is not finite.
        """
        rollout, settings = rollout.to(self.device), self.settings
        learning_rate, entropy_coefficient = self.begin_update()
        ends = rollout.next_values, rollout.terminated, rollout.truncated, settings.gamma
        returns = discounted_returns(rollout.rewards, *ends)
        advantages = gae(rollout.rewards, rollout.values, *ends, settings.gae_lambda)
        self.scale_values(returns)
        free = rollout.masks.sum(-1) > 1
        weights = free / free.sum().clamp(min=1)
        data = {
            "observations": self.normalizer(rollout.observations),
            "masks": rollout.masks,
            "starts": rollout.starts,
            "actions": rollout.actions.unsqueeze(-1),
            "returns": returns,
            "weights": weights,
            "gains": weights * normalized(advantages, free),
        }
        own = {
            name: self.local_shard(value, dim=1) for name, value in data.items()
        }  # members of which this rank learns
        memory = None if rollout.memory is None else self.local_shard(rollout.memory)

        log_probs, entropies, values = self.evaluate_actions(own["observations"], own["masks"], own["starts"], memory)
        by_level = (own["weights"].unsqueeze(-1) * entropies).flatten(0, -2).sum(0)
        shares = {
            "policy_loss": -(own["gains"] * log_probs.gather(-1, own["actions"]).squeeze(-1)).sum(),
            "value_loss": self._errors(values, own["returns"]).sum() / returns.numel(),
            "entropy": by_level.sum(),
        }
        if len(by_level) == len(LEVELS):
            shares |= {f"entropy_{level}": one for level, one in zip(LEVELS, by_level, strict=True)}
        loss = shares["policy_loss"] + settings.value_coefficient * shares["value_loss"]
        parts = self.sum_over_ranks(shares)
        gradient_norm = self.optimizer_step(loss - entropy_coefficient * shares["entropy"], **parts)
        for _ in range(settings.baseline_steps - 1):
            _, values = self.network.sequence(own["observations"])
            value_loss = self._errors(values, own["returns"]).sum() / returns.numel()
            self.optimizer_step(
                settings.value_coefficient * value_loss, **self.sum_over_ranks({"value_loss": value_loss})
            )
        self.finish_update(rollout)
        return {name: float(part) for name, part in parts.items()} | {
            "explained_variance": explained_variance(rollout.values, returns),
            "gradient_norm": gradient_norm,
            "learning_rate": learning_rate,
            "entropy_coefficient": entropy_coefficient,
            "forced_share": 1.0 - float(free.float().mean()),
        }

    def _errors(self, values: Tensor, returns: Tensor) -> Tensor:
        """Squared errors of the baseline, on the scale of returns."""
        return ((values - returns) / self.network.value_scale).square()


@LEARNERS.register("reinforce", ReinforcePolicyConfig)
def build_reinforce(
    settings: ReinforcePolicyConfig, features: Sequence[str], layout: ActionLayout, seed: int, ranks: Ranks = ALONE
) -> ReinforceAgent:
    """A policy that grows hosts, untrained; see `PolicyLearner.for_growth`."""
    return ReinforceAgent.for_growth(features, layout, settings, seed=seed, ranks=ranks)

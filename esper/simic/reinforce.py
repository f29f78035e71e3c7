"""REINFORCE with a learned baseline.

Source: Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning".
"""

from typing import ClassVar

from torch import Tensor

from esper.leyline import LEVELS
from esper.simic.advantages import discounted_returns, explained_variance, gae, normalized
from esper.simic.learned_settings import LearnedPolicySettings
from esper.simic.policy_learner import PolicyLearner
from esper.simic.reinforce_settings import ReinforcePolicyConfig
from esper.simic.rollout import Rollout
from esper.simic.schedules import schedule


class ReinforceAgent(PolicyLearner):
    """One step of the policy up the gradient of each rollout's returns, and several of its baseline towards them.

    Decisions that left no choice carry no policy loss and no entropy, and do not count in the normalisation of
    advantages; they still teach the baseline.
    """

    kind: ClassVar[str] = "reinforce"
    settings_type: ClassVar[type[LearnedPolicySettings]] = ReinforcePolicyConfig
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
        rollout, own = rollout.to(self.device), self.settings
        learning_rate, entropy_coefficient = self.begin_update()
        ends = rollout.next_values, rollout.terminated, rollout.truncated, own.gamma
        returns = discounted_returns(rollout.rewards, *ends)
        advantages = gae(rollout.rewards, rollout.values, *ends, own.gae_lambda)
        self.scale_values(returns)
        free = rollout.masks.sum(-1) > 1
        seen = self.normalizer(rollout.observations)
        log_probs, entropies, values = self.replay(seen, rollout.masks, rollout.starts, rollout.memory)
        taken = log_probs.gather(-1, rollout.actions.unsqueeze(-1)).squeeze(-1)
        weights = free / free.sum().clamp(min=1)
        by_level = (weights.unsqueeze(-1) * entropies).flatten(0, -2).sum(0)
        parts = {
            "policy_loss": -(weights * normalized(advantages, free) * taken).sum(),
            "value_loss": self._value_loss(values, returns),
            "entropy": by_level.sum(),
        }
        loss = parts["policy_loss"] + own.value_coefficient * parts["value_loss"]
        gradient_norm = self.descend(loss - entropy_coefficient * parts["entropy"], **parts)
        for _ in range(own.baseline_steps - 1):
            _, values = self.network.sequence(seen)
            value_loss = self._value_loss(values, returns)
            self.descend(own.value_coefficient * value_loss, value_loss=value_loss)
        self.finish_update(rollout)
        if len(by_level) == len(LEVELS):
            parts |= {f"entropy_{level}": one for level, one in zip(LEVELS, by_level, strict=True)}
        return {name: float(part.detach()) for name, part in parts.items()} | {
            "explained_variance": explained_variance(rollout.values, returns),
            "gradient_norm": gradient_norm,
            "learning_rate": learning_rate,
            "entropy_coefficient": entropy_coefficient,
            "forced_share": 1.0 - float(free.float().mean()),
        }

    def _value_loss(self, values: Tensor, returns: Tensor) -> Tensor:
        """Mean squared error of the baseline, on the scale of returns."""
        return ((values - returns) / self.network.value_scale).square().mean()

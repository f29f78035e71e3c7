"""Proximal policy optimisation.

Source: Schulman et al. 2017, "Proximal policy optimization algorithms", arXiv:1707.06347.
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from esper.leyline import LEVELS, ActionLayout
from esper.leyline.ranks import ALONE, Ranks
from esper.simic.on_policy.advantages import explained_variance, gae, normalized
from esper.simic.on_policy.base import PolicyLearner
from esper.simic.on_policy.config import LEARNERS, LearnedPolicyConfig
from esper.simic.on_policy.rollout import Rollout
from esper.simic.ppo.config import PPOPolicyConfig


class PPOAgent(PolicyLearner):
    """Several epochs of minibatches over each rollout, with a clipped ratio and a stop by divergence.

    Once the policy has gone far enough the values learn alone, as long as they share nothing with it.

    Decisions that left no choice carry no policy loss and no entropy, and do not count in the normalisation of
    advantages; they still teach values. With an LSTM a minibatch is of whole sequences.
    """

    kind: ClassVar[str] = "ppo"
    settings_type: ClassVar[type[LearnedPolicyConfig]] = PPOPolicyConfig
    settings: PPOPolicyConfig

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from a rollout of the policy as it is.

        Returns policy_loss, value_loss, entropy (of a free decision, in nats; of growth also entropy_<level>),
        approx_kl, clip_fraction, gradient_norm: means over the minibatches until the policy stopped; explained_variance
        of the values before the update; learning_rate, entropy_coefficient, forced_share, epochs_run (of the policy).
        Raises LearnerError where a reward, loss or gradient is not finite.
        """
        rollout, settings = self.prepare_rollout(rollout), self.settings
        learning_rate, entropy_coefficient = self.begin_update()
        advantages = gae(
            rollout.rewards,
            rollout.values,
            rollout.next_values,
            rollout.terminated,
            rollout.truncated,
            settings.gamma,
            settings.gae_lambda,
        )
        returns = advantages + rollout.values
        self.scale_values(returns)
        free = rollout.masks.sum(-1) > 1
        data = self._prepare(rollout, normalized(advantages, free), returns, free)
        batches = min(settings.minibatches, len(data["free"]))
        # Weights that add up to one on average: a minibatch with few free decisions does not count them for more.
        data["weights"] = data["free"] * (batches / free.sum().clamp(min=1))
        all_parts: list[dict[str, Tensor]] = []
        norms: list[float] = []
        is_far = False  # from the acting policy: from then on the values learn alone
        for index in self._minibatches(len(data["free"]), batches):
            loss, shares = self._loss(data, index, entropy_coefficient)
            parts = self.sum_over_ranks(shares)
            if not is_far:
                all_parts.append(parts)
                is_far = settings.target_kl is not None and float(parts["approx_kl"]) > settings.target_kl
            if not is_far:
                norms.append(self.optimizer_step(loss, **parts))
            elif self.network.memory_size:
                break  # what is remembered serves both: values cannot be taught without moving the policy
            else:
                self.optimizer_step(settings.value_coefficient * shares["value_loss"], **parts)
        self.finish_update(rollout)
        return {name: float(torch.stack([one[name] for one in all_parts]).mean()) for name in parts} | {
            "explained_variance": explained_variance(rollout.values, returns),
            "gradient_norm": sum(norms) / max(len(norms), 1),
            "learning_rate": learning_rate,
            "entropy_coefficient": entropy_coefficient,
            "forced_share": 1.0 - float(free.float().mean()),
            "epochs_run": len(norms) / batches,
        }

    def _prepare(self, rollout: Rollout, advantages: Tensor, returns: Tensor, free: Tensor) -> dict[str, Tensor]:
        """What minibatches are taken from, along the first dimension: decisions, or members with all of theirs."""
        data = {
            "observations": self.normalizer(rollout.observations),
            "masks": rollout.masks,
            "actions": rollout.actions.unsqueeze(-1),
            "log_probs": rollout.log_probs,
            "values": rollout.values,
            "advantages": advantages,
            "returns": returns,
            "free": free,
            "starts": rollout.starts,
        }
        if rollout.memory is None:
            return {name: value.flatten(0, 1) for name, value in data.items()}
        return {name: value.transpose(0, 1) for name, value in data.items()} | {"memory": rollout.memory}

    def _minibatches(self, length: int, batches: int) -> Iterator[Tensor]:
        for _ in range(self.settings.epochs):
            order = torch.randperm(length, generator=self.generators["minibatches"])
            yield from order.to(self.device).tensor_split(batches)

    def _loss(
        self, data: dict[str, Tensor], index: Tensor, entropy_coefficient: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """This rank's share of a minibatch's loss, and of all its parts."""
        own, free = self.local_shard(index), data["free"][index]
        batch = {name: value[own] for name, value in data.items()}
        settings, memory = self.settings, batch.pop("memory", None)
        if memory is not None:
            batch = {name: value.transpose(0, 1) for name, value in batch.items()}  # [T, B, ..]
        log_probs, entropies, values = self.evaluate_actions(
            batch["observations"], batch["masks"], batch["starts"], memory
        )
        weights, advantages = batch["weights"], batch["advantages"]
        change = log_probs.gather(-1, batch["actions"]).squeeze(-1) - batch["log_probs"]
        ratio = change.exp()
        clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
        policy_loss = -(weights * torch.minimum(ratio * advantages, clipped * advantages)).sum()
        value_loss = self._value_errors(values, batch["values"], batch["returns"]).sum() / free.numel()
        by_level = (weights.unsqueeze(-1) * entropies).flatten(0, -2).sum(0)
        entropy = by_level.sum()
        with torch.no_grad():
            share = batch["free"] / free.sum().clamp(min=1)
            approx_kl = (share * (ratio - 1 - change)).sum()  # never negative; Schulman's "Approximating KL divergence"
            clip_fraction = (share * ((ratio - 1).abs() > settings.clip)).sum()
        parts = {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}
        if len(by_level) == len(LEVELS):
            parts |= {f"entropy_{level}": one for level, one in zip(LEVELS, by_level, strict=True)}
        loss = policy_loss + settings.value_coefficient * value_loss - entropy_coefficient * entropy
        return loss, parts | {"approx_kl": approx_kl, "clip_fraction": clip_fraction}

    def _value_errors(self, values: Tensor, before: Tensor, returns: Tensor) -> Tensor:
        """Squared errors, on the scale of returns."""
        scale, limit = self.network.value_scale, self.settings.value_clip
        errors = ((values - returns) / scale).square()
        if limit is not None:
            moved = before + (values - before).clamp(-limit * scale, limit * scale)
            errors = torch.maximum(errors, ((moved - returns) / scale).square())
        return errors


@LEARNERS.register("ppo", PPOPolicyConfig)
def build_ppo(
    settings: PPOPolicyConfig, features: Sequence[str], layout: ActionLayout, seed: int, ranks: Ranks = ALONE
) -> PPOAgent:
    """A policy that grows hosts, untrained; see `PolicyLearner.for_growth`."""
    return PPOAgent.for_growth(features, layout, settings, seed=seed, ranks=ranks)

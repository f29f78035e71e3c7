"""Settings of PPO; free of torch, as the configuration is."""

from dataclasses import dataclass

from esper.simic.on_policy.config import LEARNERS, LearnedPolicyConfig
from esper.tamiyo.settings import check_within


@dataclass(kw_only=True)
class PPOPolicyConfig(LearnedPolicyConfig):
    """epochs: passes over a rollout, each in so many minibatches. clip: how far the probability ratio may count.

    value_clip: how far a value may move in one update, in standard deviations of returns; None: as far as it likes.
    target_kl: once the policy has moved further than that (nats), values learn alone until the update ends; an lstm,
    which they share, ends it. None: never.
    """

    name: str = "ppo"
    learning_rate: float = 3e-3
    final_learning_rate: float = 3e-4
    gae_lambda: float = 0.95
    clip: float = 0.2
    value_clip: float | None = None
    epochs: int = 10
    minibatches: int = 4
    target_kl: float | None = 0.03

    def __post_init__(self) -> None:
        super().__post_init__()
        check_within("gae_lambda", self.gae_lambda, 0.0, 1.0)
        check_within("clip", self.clip, 1e-3, 10.0)
        if self.value_clip is not None:
            check_within("value_clip", self.value_clip, 1e-3, 1e6)
        check_within("epochs", self.epochs, 1, 1000)
        check_within("minibatches", self.minibatches, 1, 10_000)
        if self.target_kl is not None:
            check_within("target_kl", self.target_kl, 1e-6, 100.0)


LEARNERS.declare("ppo", PPOPolicyConfig, "esper.simic.ppo.agent:build_ppo")

"""Settings of REINFORCE; free of torch, as the configuration is."""

from dataclasses import dataclass

from esper.errors import ConfigError
from esper.simic.on_policy.config import LEARNERS, LearnedPolicyConfig
from esper.tamiyo.settings import check_within


@dataclass(kw_only=True)
class ReinforcePolicyConfig(LearnedPolicyConfig):
    """gae_lambda: 1 weighs decisions by plain returns less the baseline, below that by generalised advantages.

    baseline_steps: gradient steps of the baseline an update; the policy takes one. entropy_decay: share of the updates
    after which the entropy coefficient has come down to its floor.
    """

    name: str = "reinforce"
    updates: int = 60
    learning_rate: float = 2e-2
    final_learning_rate: float = 2e-3
    schedule: str = "warmup_cosine"
    warmup_updates: int = 5
    entropy_decay: float = 0.7
    gae_lambda: float = 0.97
    baseline_steps: int = 10
    validate_every: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        check_within("entropy_decay", self.entropy_decay, 0.0, 1.0)
        check_within("gae_lambda", self.gae_lambda, 0.0, 1.0)
        check_within("baseline_steps", self.baseline_steps, 1, 1000)
        if self.network == "lstm" and self.baseline_steps > 1:
            raise ConfigError(
                f"policy.baseline_steps={self.baseline_steps} with policy.network=lstm: the two share a memory, so the "
                "baseline alone cannot be trained; set policy.baseline_steps=1"
            )


LEARNERS.declare("reinforce", ReinforcePolicyConfig, "esper.simic.reinforce.agent:build_reinforce")

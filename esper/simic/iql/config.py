"""Settings of IQL; free of torch, as the configuration is."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from esper.checks import did_you_mean
from esper.errors import ConfigError
from esper.registry import Registry
from esper.tamiyo.settings import PolicyConfig, check_blend, check_within

if TYPE_CHECKING:
    from esper.simic.iql.offline import OfflineTraining

FEATURES = (27, 37)
ACT_BY = ("policy", "value")


@dataclass(kw_only=True)
class IQLPolicyConfig(PolicyConfig):
    """dataset: run directories to learn from; load: a model, or the run that made it, to act with instead.

    features: 27 of a member and a slot, or 37 with the seed's telemetry. steps: gradient steps. tau: expectile; beta:
    inverse temperature of the imitation, where rewards are scaled to a standard deviation of 1.
    prioritized: draw surprising transitions more often. act_by: what the policy finds likeliest, or what has the
    highest value among all that it finds at least `support` times as likely as the likeliest deed. *_blueprints: what
    planting one of a family means; the first that the host has.
    """

    name: str = "iql"
    dataset: list[str] = field(default_factory=list)
    load: str | None = None
    features: int = 37
    steps: int = 10_000
    batch_size: int = 256
    gamma: float = 1.0
    tau: float = 0.7
    beta: float = 3.0
    learning_rate: float = 1e-3
    hidden: list[int] = field(default_factory=lambda: [64, 64])
    prioritized: bool = False
    act_by: str = "value"
    support: float = 0.3
    blend: str = "sigmoid"
    conv_blueprints: list[str] = field(default_factory=lambda: ["conv_enhance", "conv_light", "mlp_small"])
    attention_blueprints: list[str] = field(default_factory=lambda: ["attention"])
    norm_blueprints: list[str] = field(default_factory=lambda: ["norm"])
    depthwise_blueprints: list[str] = field(default_factory=lambda: ["depthwise", "lora"])

    @property
    def learns(self) -> bool:
        """Whether there is no model to act with yet."""
        return self.load is None

    @property
    def sources(self) -> list[tuple[str, str]]:
        """Runs to learn from."""
        return [("policy.dataset", run) for run in self.dataset] if self.learns else []

    def __post_init__(self) -> None:
        if self.features not in FEATURES:
            raise ConfigError(f"policy.features={self.features}: expected 27, or 37 with the seed's telemetry")
        if self.act_by not in ACT_BY:
            hint = did_you_mean(self.act_by, ACT_BY)
            raise ConfigError(f"policy.act_by={self.act_by}: expected one of {', '.join(ACT_BY)}{hint}")
        check_blend("blend", self.blend)
        for key in ("steps", "batch_size"):
            check_within(key, getattr(self, key), 1, 1_000_000_000)
        check_within("gamma", self.gamma, 0.0, 1.0)
        check_within("tau", self.tau, 0.01, 0.99)
        check_within("beta", self.beta, 0.0, 1000.0)
        check_within("support", self.support, 0.0, 1.0)
        check_within("learning_rate", self.learning_rate, 1e-8, 1.0)
        if not self.hidden:
            raise ConfigError("policy.hidden=[]: expected the width of at least one layer")
        for width in self.hidden:
            check_within("hidden", width, 1, 65_536)


OFFLINE_LEARNERS: "Registry[IQLPolicyConfig, OfflineTraining]" = Registry("policy")
OFFLINE_LEARNERS.declare("iql", IQLPolicyConfig, "esper.simic.iql.offline:build_offline_training")

"""Settings that every policy learned by acting shares; free of torch, as the configuration is."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from esper.checks import did_you_mean
from esper.errors import ConfigError
from esper.leyline import Operation
from esper.registry import Registry
from esper.simic.on_policy.schedules import SCHEDULES
from esper.tamiyo.settings import PolicyConfig, check_blend, check_within

if TYPE_CHECKING:
    from esper.simic.on_policy.base import PolicyLearner

NETWORKS = ("mlp", "lstm")
_OPERATIONS = [operation.name.lower() for operation in Operation]


@dataclass(kw_only=True)
class LearnedPolicyConfig(PolicyConfig):
    """updates: of the whole run, 0: only act; members: trained at the same time to learn from; rollout_steps: decisions
    of each between two updates, None: one episode.

    bootstrap_truncated: an episode that its time limit ends would have gone on, and what it would still have been worth
    counts; False: its time is part of the task, as a host's last epoch is, and seen by the policy.
    schedule: how learning_rate moves to final_learning_rate (constant, linear, warmup_cosine). entropy_coefficient:
    moves evenly to final_entropy_coefficient. operation_prior: what an untrained policy does among what is legal, as
    weights. blends: to choose from. hidden: widths of the network's layers. deterministic: act by the likeliest choices
    when not learning. load: a run directory or checkpoint whose policy to start from, or to act with. validate_every:
    updates between validations, 0: none; patience: validations without a gain (of more than min_gain) before
    training stops, None: never.
    """

    updates: int = 60
    members: int = 32
    rollout_steps: int | None = None
    gamma: float = 1.0
    bootstrap_truncated: bool = False
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-4
    schedule: str = "linear"
    warmup_updates: int = 0
    entropy_coefficient: float = 0.02
    final_entropy_coefficient: float = 0.002
    value_coefficient: float = 0.5
    max_gradient_norm: float = 0.5
    network: str = "mlp"
    hidden: list[int] = field(default_factory=lambda: [64, 64])
    operation_prior: dict[str, float] = field(
        default_factory=lambda: {"wait": 4.0, "germinate": 4.0, "advance": 4.0, "cull": 0.25}
    )
    blends: list[str] = field(default_factory=lambda: ["sigmoid"])
    deterministic: bool = False
    load: str | None = None
    validate_every: int = 0
    validation_episodes: int = 32
    patience: int | None = None
    min_gain: float = 0.0

    @property
    def learns(self) -> bool:
        """Whether there are updates to make."""
        return self.updates > 0

    @property
    def sources(self) -> list[tuple[str, str]]:
        """A policy to begin from."""
        return [] if self.load is None else [("policy.load", self.load)]

    @property
    def note(self) -> str:
        """That it acts by nothing that was ever learned."""
        if self.learns or self.load is not None:
            return ""
        return f"policy={self.name} acts untrained: policy.updates=0, and no policy.load"

    def __post_init__(self) -> None:
        check_within("updates", self.updates, 0, 1_000_000)
        check_within("members", self.members, 1, 1_000_000)
        if self.rollout_steps is not None:
            check_within("rollout_steps", self.rollout_steps, 1, 1_000_000)
        check_within("gamma", self.gamma, 0.0, 1.0)
        check_within("learning_rate", self.learning_rate, 1e-8, 1.0)
        check_within("final_learning_rate", self.final_learning_rate, 0.0, 1.0)
        check_known("schedule", self.schedule, SCHEDULES)
        check_within("warmup_updates", self.warmup_updates, 0, 1_000_000)
        check_within("entropy_coefficient", self.entropy_coefficient, 0.0, 10.0)
        check_within("final_entropy_coefficient", self.final_entropy_coefficient, 0.0, 10.0)
        check_within("value_coefficient", self.value_coefficient, 0.0, 100.0)
        check_within("max_gradient_norm", self.max_gradient_norm, 1e-6, 1e6)
        check_known("network", self.network, NETWORKS)
        if not self.hidden:
            raise ConfigError("policy.hidden=[]: expected the width of at least one layer")
        for width in self.hidden:
            check_within("hidden", width, 1, 65_536)
        if sorted(self.operation_prior) != sorted(_OPERATIONS):
            raise ConfigError(f"policy.operation_prior={self.operation_prior}: expected {', '.join(_OPERATIONS)}")
        for name, weight in self.operation_prior.items():
            check_within(f"operation_prior.{name}", weight, 1e-6, 1e6)
        if not self.blends or len(set(self.blends)) < len(self.blends):
            raise ConfigError(f"policy.blends={self.blends}: expected at least one, and each once")
        for blend in self.blends:
            check_blend("blends", blend)
        self._check_validation()

    def _check_validation(self) -> None:
        check_within("validate_every", self.validate_every, 0, 1_000_000)
        check_within("validation_episodes", self.validation_episodes, 1, 1_000_000)
        check_within("min_gain", self.min_gain, 0.0, 1e6)
        if self.patience is None:
            return
        check_within("patience", self.patience, 1, 1_000_000)
        if not self.validate_every:
            raise ConfigError(f"policy.patience={self.patience} without validations: set policy.validate_every")
        if 0 < self.updates <= (self.patience + 1) * self.validate_every:
            raise ConfigError(
                f"policy.patience={self.patience} validations of {self.validate_every} updates never run out within "
                f"policy.updates={self.updates}: lower one of the three, or set policy.patience=null"
            )


LEARNERS: "Registry[LearnedPolicyConfig, PolicyLearner]" = Registry("policy")


def check_known(key: str, value: str, known: Iterable[str]) -> None:
    """Raise ConfigError unless the value is one of those known."""
    names = list(known)
    if value not in names:
        raise ConfigError(f"policy.{key}={value}: expected one of {', '.join(names)}{did_you_mean(value, names)}")

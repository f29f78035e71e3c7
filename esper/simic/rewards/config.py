"""What a reward is made of. All weights are in shares of validation accuracy: 1 is worth 100 points."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from esper.errors import ConfigError
from esper.leyline import ScoreKind
from esper.registry import Registry

if TYPE_CHECKING:
    from esper.simic.rewards.functions import Reward


@dataclass(kw_only=True)
class RewardConfig:
    """What all rewards share.

    name: the reward these settings belong to. discount: of later rewards, an epoch, as the learner has it; where the
    two differ, shaping and rent change what is best. rollback_penalty: each time the governor puts a member back.
    """

    name: str = ""
    discount: float = 1.0
    rollback_penalty: float = 0.1

    def __post_init__(self) -> None:
        _check_within("discount", self.discount, 0.01, 1.0)
        _check_within("rollback_penalty", self.rollback_penalty, 0.0, 10.0)


@dataclass(kw_only=True)
class SparseRewardConfig(RewardConfig):
    """final_epochs: the outcome is the mean accuracy of so many last epochs."""

    name: str = "sparse"
    final_epochs: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_within("final_epochs", self.final_epochs, 1, 1_000_000)


@dataclass(kw_only=True)
class MinimalRewardConfig(RewardConfig):
    """parameter_rent, compute_rent: for each doubling of parameters and of FLOPs, held over a whole episode."""

    name: str = "minimal"
    parameter_rent: float = 0.005
    compute_rent: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_within("parameter_rent", self.parameter_rent, 0.0, 10.0)
        _check_within("compute_rent", self.compute_rent, 0.0, 10.0)


@dataclass(kw_only=True)
class ContributionRewardConfig(MinimalRewardConfig):
    """final_epochs: the outcome is the mean accuracy of so many last epochs. shaping_weight: of what live seeds are
    measured to be worth; 0 leaves outcome and rent. loss_weight: of a nat of validation loss that a seed saves.
    worth_limit: the most that one seed counts for, or against, before it is weighed."""

    name: str = "contribution"
    final_epochs: int = 1
    shaping_weight: float = 0.1
    loss_weight: float = 0.1
    worth_limit: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_within("final_epochs", self.final_epochs, 1, 1_000_000)
        for key in ("shaping_weight", "loss_weight", "worth_limit"):
            _check_within(key, getattr(self, key), 0.0, 10.0)


REWARDS: "Registry[RewardConfig, Reward]" = Registry("reward")
REWARDS.declare("contribution", ContributionRewardConfig, "esper.simic.rewards.functions:build_contribution")
REWARDS.declare("minimal", MinimalRewardConfig, "esper.simic.rewards.functions:build_minimal")
REWARDS.declare("sparse", SparseRewardConfig, "esper.simic.rewards.functions:build_sparse")


def return_unit(settings: RewardConfig, score: ScoreKind) -> str:
    """What a hundredth of a return is, in words; nothing for a reward of a user's own, which may count anything."""
    return "" if REWARDS.parts[settings.name].is_own else f"points of {score.title}"


def _check_within(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"reward.{key}={value}: expected a value from {low:g} to {high:g}")

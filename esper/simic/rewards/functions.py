"""What an epoch was worth: rewards from the report before it and the report after it.

Every reward is finite and bounded, whatever the reports hold; docs/rewards.md says why each is made as it is.
"""

import math
from functools import partial
from typing import Protocol

from esper.checks import is_number, require
from esper.factories import own_code
from esper.leyline import EpochReport, SeedStage, SeedStateReport
from esper.simic.rewards.config import (
    REWARDS,
    ContributionRewardConfig,
    MinimalRewardConfig,
    RewardConfig,
    SparseRewardConfig,
)

LIVE = (SeedStage.BLENDING, SeedStage.PROBATIONARY)  # the seed shows in the output and can still be taken away
MAX_DOUBLINGS = 10.0  # of a member's size in one epoch that count: a factor of a thousand


class Reward(Protocol):
    """Judges one member's epoch. It keeps no memory: the two reports say it all."""

    def __call__(self, before: EpochReport, after: EpochReport) -> float:
        """The reward of `after.action`; 0 once the episode is over (last epoch, or retired)."""
        ...


def build_reward(settings: RewardConfig) -> Reward:
    """The reward for these settings. Raises ConfigError where none has such settings."""
    reward = REWARDS.build(settings)
    return partial(_own_reward, settings.name, reward) if REWARDS.parts[settings.name].is_own else reward


def _own_reward(name: str, reward: Reward, before: EpochReport, after: EpochReport) -> float:
    """What a reward of a user's own gives. Raises ConfigError where it fails, or that is no finite number."""
    with own_code(f"reward {name!r}"):
        worth = reward(before, after)
    require(is_number(worth), f"reward={name} at epoch {after.epoch}", worth, "a finite number")
    return float(worth)


@REWARDS.register("contribution", ContributionRewardConfig)
def build_contribution(settings: ContributionRewardConfig) -> Reward:
    """See `contribution_reward`."""
    return partial(contribution_reward, settings)


@REWARDS.register("minimal", MinimalRewardConfig)
def build_minimal(settings: MinimalRewardConfig) -> Reward:
    """See `minimal_reward`."""
    return partial(minimal_reward, settings)


@REWARDS.register("sparse", SparseRewardConfig)
def build_sparse(settings: SparseRewardConfig) -> Reward:
    """See `sparse_reward`."""
    return partial(sparse_reward, settings)


def contribution_reward(settings: ContributionRewardConfig, before: EpochReport, after: EpochReport) -> float:
    """Final accuracy less rent, shaped by what the live seeds are measured to be worth.

    The shaping is a difference of potentials that are 0 where an episode begins and where it ends. It sums to nothing,
    so that no policy gains or loses by it. Source: Ng, Harada and Russell 1999, "Policy invariance under reward
    transformations"; for the end, Grzes 2017, "Reward shaping in episodic reinforcement learning".
    """
    if _is_over(before):
        return 0.0
    shaping = settings.discount * _potential(settings, after) - _potential(settings, before)
    return _outcome(settings, after) + shaping - _rent(settings, before, after) - _penalty(settings, after)


def sparse_reward(settings: SparseRewardConfig, before: EpochReport, after: EpochReport) -> float:
    """Final accuracy; before it nothing but the penalty of rollbacks."""
    return 0.0 if _is_over(before) else _outcome(settings, after) - _penalty(settings, after)


def minimal_reward(settings: MinimalRewardConfig, before: EpochReport, after: EpochReport) -> float:
    """The epoch's change in accuracy, whoever caused it, less rent."""
    if _is_over(before):
        return 0.0
    return _score(after) - _score(before) - _rent(settings, before, after) - _penalty(settings, after)


def _is_over(report: EpochReport) -> bool:
    return report.retired or report.epoch >= report.max_epochs


def _score(report: EpochReport) -> float:
    """On validation, 0 to 1; 0 where it is not known, and for R-squared below it."""
    return _clip(report.val_accuracy / 100, 0.0, 1.0)


def _outcome(settings: SparseRewardConfig | ContributionRewardConfig, after: EpochReport) -> float:
    """This epoch's part of the final accuracy; at retirement also that of the epochs that are missed.

    Each part is discounted as if it fell due at the last epoch, so that ending sooner brings nothing sooner.
    """
    epochs = max(1, min(settings.final_epochs, after.max_epochs))
    left = max(0, after.max_epochs - after.epoch)
    due = min(left + 1, epochs) if after.retired else left < epochs
    return settings.discount**left * due / epochs * _score(after)


def _penalty(settings: RewardConfig, after: EpochReport) -> float:
    return settings.rollback_penalty if after.rolled_back else 0.0


def _rent(settings: MinimalRewardConfig, before: EpochReport, after: EpochReport) -> float:
    """Rent up to the last epoch, in advance, for what was added; what was removed gets the rest of its own back.

    The return is that of a rent which is due each epoch for all that exceeds the untrained host; but so it falls to the
    decisions that cause it, and needs no memory of that host.
    """
    parameters = _doublings(before.parameter_count, after.parameter_count)
    compute = _doublings(before.flops_per_sample, after.flops_per_sample)
    share = _annuity(settings.discount, max(0, after.max_epochs - before.epoch)) / max(1, after.max_epochs)
    return share * (settings.parameter_rent * parameters + settings.compute_rent * compute)


def _annuity(discount: float, epochs: int) -> float:
    """1 + discount + discount^2 + ..., one term an epoch."""
    return epochs if discount == 1 else (1 - discount**epochs) / (1 - discount)


def _doublings(before: int, after: int) -> float:
    return _clip(math.log2(max(1, after)) - math.log2(max(1, before)), -MAX_DOUBLINGS, MAX_DOUBLINGS)


def _potential(settings: ContributionRewardConfig, report: EpochReport) -> float:
    """What the live seeds are measured to be worth; 0 once the episode is over.

    A fossil is measured no more, and its worth leaves the potential. That is neither a loss nor a lock on a gain: what
    a live seed has put in is taken out again in any case, when it is culled, fossilised or overtaken by the end.
    """
    if _is_over(report):
        return 0.0
    return settings.shaping_weight * math.fsum(_worth(settings, seed) for seed in report.slots.values())


def _worth(settings: ContributionRewardConfig, seed: SeedStateReport) -> float:
    if seed.stage not in LIVE or seed.contribution is None:
        return 0.0
    saved = settings.loss_weight * (seed.contribution_loss or 0.0)
    return _clip(seed.contribution / 100 + saved, -settings.worth_limit, settings.worth_limit)


def _clip(value: float, low: float, high: float) -> float:
    """0 for NaN."""
    return 0.0 if math.isnan(value) else min(max(value, low), high)

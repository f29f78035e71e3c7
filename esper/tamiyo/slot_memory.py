"""What the heuristic remembers of one slot from epoch to epoch."""

import math
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from esper.files import built
from esper.leyline import SeedStage, SeedStateReport, is_active_stage

FULL_REWARD_POINTS = 50.0  # of contribution: a fossil can hardly be worth more
HALF_BLENDED = 0.5  # below it a seed's contribution says more about the ramp than about the seed


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a seed: a fossil, with its mean contribution on probation in points, or lost."""

    blueprint: str
    is_fossil: bool
    contribution: float

    @property
    def reward(self) -> float:
        """0 for a seed that was lost; a fossil's contribution as a share of 50 points, from 0 to 1."""
        return min(max(self.contribution / FULL_REWARD_POINTS, 0.0), 1.0) if self.is_fossil else 0.0


@dataclass(slots=True)
class SlotMemory:
    """The seed last seen, and how it has done since its stage began.

    asked: advances asked for in this stage (the stage still lasts, so each was refused). good_epochs, bad_epochs: in a
    row, up to now. contributions: as measured, in points. is_on_trial: planted, and its outcome is not known yet.
    failures: seeds of each blueprint that were lost here.
    """

    seed_id: str = ""
    blueprint: str = ""
    stage: SeedStage = SeedStage.DORMANT
    asked: int = 0
    good_epochs: int = 0
    bad_epochs: int = 0
    contributions: list[float] = field(default_factory=list)
    is_on_trial: bool = False
    failures: dict[str, int] = field(default_factory=dict)

    def planted(self, blueprint: str) -> None:
        """A seed was asked for; should the next report show none, it counts as lost."""
        self.stage, self.blueprint, self.is_on_trial = SeedStage.GERMINATED, blueprint, True

    def observe(self, seed: SeedStateReport, min_contribution: float) -> Outcome | None:
        """Take in the slot's report: did a stage begin, was this a good epoch or a bad one?

        Returns what became of the seed last seen, in the one epoch in which that shows.
        """
        outcome = self._outcome(seed)
        if seed.stage is not self.stage or seed.seed_id != self.seed_id:
            self.seed_id, self.stage, self.blueprint = seed.seed_id, seed.stage, seed.blueprint_id
            self.asked = self.good_epochs = self.bad_epochs = 0
            self.contributions = []
        if seed.contribution is not None and math.isfinite(seed.contribution):
            self.contributions.append(seed.contribution)
        worth = _worth(seed, min_contribution)
        self.good_epochs = self.good_epochs + 1 if worth > 0 else 0
        self.bad_epochs = self.bad_epochs + 1 if worth < 0 else 0
        return outcome

    def _outcome(self, seed: SeedStateReport) -> Outcome | None:
        if not is_active_stage(self.stage) or is_active_stage(seed.stage):
            return None
        is_fossil = seed.stage is SeedStage.FOSSILIZED
        if not is_fossil:
            self.failures[self.blueprint] = self.failures.get(self.blueprint, 0) + 1
        was_on_trial, self.is_on_trial = self.is_on_trial, False
        # A fossil that a rollback sets back to probation was counted when it first became one.
        return Outcome(self.blueprint, is_fossil, fmean(self.contributions or [0.0])) if was_on_trial else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"stage": int(self.stage)}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "SlotMemory":
        """The memory that `to_dict` described."""
        memory = built(cls, plain)
        memory.stage = SeedStage(memory.stage)
        memory.contributions, memory.failures = list(memory.contributions), dict(memory.failures)
        return memory


def _worth(seed: SeedStateReport, min_contribution: float) -> int:
    """1 if the seed helps, -1 if it harms, 0 if unclear: accuracy decides unless the loss says the opposite."""
    if seed.contribution is None or seed.alpha < HALF_BLENDED or not is_active_stage(seed.stage):
        return 0
    loss_gain = seed.contribution_loss
    if seed.contribution > min_contribution and (loss_gain is None or loss_gain >= 0):
        return 1
    if seed.contribution < 0 and (loss_gain is None or loss_gain <= 0):
        return -1
    return 0

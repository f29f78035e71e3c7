"""What the heuristic remembers of one slot from epoch to epoch."""

from dataclasses import asdict, dataclass, field
from typing import Any

from esper.leyline import SeedStage, SeedStateReport, is_active_stage

HALF_BLENDED = 0.5  # below it a seed's contribution says more about the ramp than about the seed


@dataclass(slots=True)
class SlotMemory:
    """The seed last seen, and how it has done since its stage began.

    asked: advances asked for in this stage (the stage still lasts, so each was refused). good_epochs, bad_epochs: in a
    row, up to now. failures: seeds of each blueprint that were lost here.
    """

    seed_id: str = ""
    blueprint: str = ""
    stage: SeedStage = SeedStage.DORMANT
    asked: int = 0
    good_epochs: int = 0
    bad_epochs: int = 0
    failures: dict[str, int] = field(default_factory=dict)

    def planted(self, blueprint: str) -> None:
        """A seed was asked for; should the next report show none, it counts as lost."""
        self.stage, self.blueprint = SeedStage.GERMINATED, blueprint

    def observe(self, seed: SeedStateReport, min_contribution: float) -> None:
        """Take in the slot's report: was a seed lost, did a stage begin, was this a good epoch or a bad one?"""
        if is_active_stage(self.stage) and not is_active_stage(seed.stage) and seed.stage is not SeedStage.FOSSILIZED:
            self.failures[self.blueprint] = self.failures.get(self.blueprint, 0) + 1
        if seed.stage is not self.stage or seed.seed_id != self.seed_id:
            self.seed_id, self.stage, self.blueprint = seed.seed_id, seed.stage, seed.blueprint_id
            self.asked = self.good_epochs = self.bad_epochs = 0
        worth = _worth(seed, min_contribution)
        self.good_epochs = self.good_epochs + 1 if worth > 0 else 0
        self.bad_epochs = self.bad_epochs + 1 if worth < 0 else 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"stage": int(self.stage)}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "SlotMemory":
        """The memory that `to_dict` described."""
        return cls(**plain | {"stage": SeedStage(plain["stage"]), "failures": dict(plain["failures"])})


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

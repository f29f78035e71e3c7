"""What the phase cognate is told."""

from dataclasses import dataclass

from esper.checks import in_range
from esper.errors import ConfigError
from esper.forge.budget import TrainingBudget


@dataclass(kw_only=True)
class CognateConfig:
    """Trunk and specialists.

    trunk: a run of `esper.run host=decoder task=text` whose grown decoder is taken as it is; None: one is trained.
    grow: whether that one grows while it trains. grow_epochs: the even parts of its training that growth is decided by.
    specialist_share: of a specialist's text that is its own domain's. baseline_order: the n-gram model that the trunk
    must beat on every domain.
    """

    trunk: str | None
    grow: bool
    grow_epochs: int
    trunk_training: TrainingBudget
    specialist_training: TrainingBudget
    specialist_share: float
    baseline_order: int
    checkpoint_every_steps: int

    def __post_init__(self) -> None:
        if self.grow and self.trunk is not None:
            raise ConfigError(
                f"cognate.grow=true: has no effect with cognate.trunk={self.trunk}, which has grown already\n"
                "  drop one of the two"
            )
        self.trunk_training.check("cognate.trunk_training")
        self.specialist_training.check("cognate.specialist_training")
        in_range("cognate.grow_epochs", self.grow_epochs, 1, 1_000_000)
        if self.grow and self.trunk_training.steps % self.grow_epochs:
            raise ConfigError(
                f"cognate.grow_epochs={self.grow_epochs}: expected what divides "
                f"cognate.trunk_training.steps={self.trunk_training.steps}, so that each part has as many steps"
            )
        in_range("cognate.specialist_share", self.specialist_share, 0.5, 1.0)
        in_range("cognate.baseline_order", self.baseline_order, 1, 5)
        in_range("cognate.checkpoint_every_steps", self.checkpoint_every_steps, 1, 1_000_000)

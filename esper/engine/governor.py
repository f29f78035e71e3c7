"""Watches every member's training, and puts one back when it goes wrong."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from esper.engine.population import Population
from esper.engine.snapshot import Snapshot, restore_snapshot, take_snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class GovernorConfig:
    """explode_factor: of the untrained host's loss; collapse_points: below the member's best validation accuracy."""

    snapshot_every_epochs: int = 3
    explode_factor: float = 3.0
    collapse_points: float = 40.0
    max_rollbacks: int = 2


@dataclass(slots=True)
class _Watch:
    first_loss: float = math.inf
    best_accuracy: float = 0.0
    rollbacks: int = 0


@dataclass(slots=True)
class Governor:
    """A rollback is no free undo: the epoch is spent, and at `max_rollbacks` of them a member is retired."""

    config: GovernorConfig = field(default_factory=GovernorConfig)
    snapshot: Snapshot | None = None
    snapshot_epoch: int = 0
    watches: list[_Watch] = field(default_factory=list)

    def start(self, losses: Sequence[float]) -> None:
        """Begin to watch; losses: of the untrained hosts on the validation split."""
        self.watches = [_Watch(first_loss=loss) for loss in losses]

    def before_epoch(self, epoch: int, population: Population) -> None:
        """Take a snapshot where one is due."""
        if self.snapshot is None or epoch - self.snapshot_epoch > self.config.snapshot_every_epochs:
            self.snapshot, self.snapshot_epoch = take_snapshot(population), epoch - 1

    def complaint(self, member: int, train_loss: float, val_loss: float, val_accuracy: float) -> str | None:
        """What is wrong with this member's epoch, or None. Accuracy in percent."""
        watch = self.watches[member]
        if not (math.isfinite(train_loss) and math.isfinite(val_loss)):
            return "the loss is not finite"
        limit = self.config.explode_factor * watch.first_loss
        if train_loss > limit:
            return f"training exploded: loss {train_loss:.3g} is above {limit:.3g}"
        if val_accuracy < watch.best_accuracy - self.config.collapse_points:
            return f"training collapsed: accuracy {val_accuracy:.1f}% after {watch.best_accuracy:.1f}%"
        watch.best_accuracy = max(watch.best_accuracy, val_accuracy)
        return None

    def roll_back(self, member: int, population: Population) -> bool:
        """Put a member back to the last snapshot; whether it is retired by that."""
        assert self.snapshot is not None
        restore_snapshot(population, self.snapshot, [member])
        self.watches[member].rollbacks += 1
        return self.watches[member].rollbacks >= self.config.max_rollbacks

    def state(self) -> dict[str, object]:
        """Plain values; the snapshot is kept apart."""
        return {
            "snapshot_epoch": self.snapshot_epoch,
            "watches": [[w.first_loss, w.best_accuracy, w.rollbacks] for w in self.watches],
        }

    def load_state(self, plain: dict, snapshot: Snapshot | None) -> None:
        """Continue where `state` was taken."""
        self.snapshot, self.snapshot_epoch = snapshot, plain["snapshot_epoch"]
        self.watches = [_Watch(*values) for values in plain["watches"]]

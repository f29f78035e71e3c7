"""Watches every member's training, and puts one back when it goes wrong."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

from torch import Tensor

from esper.engine.state.snapshot import Snapshot, join_snapshot, restore_snapshot, split_snapshot, take_snapshot
from esper.engine.state.view import Members
from esper.leyline import LEAST_SCORE
from esper.leyline.governor import GovernorConfig

GOVERNOR = "governor/"  # what names of its tensors begin with


@dataclass(slots=True)
class _Monitor:
    """snapshot_epoch: after which of its epochs the member was last copied; None before the first copy."""

    first_loss: float = math.inf
    best_score: float = LEAST_SCORE
    rollbacks: int = 0
    snapshot_epoch: int | None = None


@dataclass(slots=True)
class Governor:
    """A rollback is no free undo: the epoch is spent, and at `max_rollbacks` of them a member is retired.

    Members count epochs from their own start, and each is copied by its own count: what becomes of one does not depend
    on when another began.
    """

    config: GovernorConfig = field(default_factory=GovernorConfig)
    snapshot: Snapshot | None = None
    monitors: dict[int, _Monitor] = field(default_factory=dict)

    def start(self, losses: Mapping[int, float]) -> None:
        """Begin to monitor these members afresh; losses: of their untrained hosts on the validation split."""
        self.monitors |= {member: _Monitor(first_loss=loss) for member, loss in losses.items()}

    def before_epoch(self, epochs: Sequence[int], population: Members) -> None:
        """Copy every member that is due; epochs: which one each member begins, counted from its own start."""
        due = {
            member
            for member, monitor in self.monitors.items()
            if monitor.snapshot_epoch is None
            or epochs[member] - monitor.snapshot_epoch > self.config.snapshot_every_epochs
        }
        if due:
            self.snapshot = take_snapshot(population, due, self.snapshot)
        for member in due:
            self.monitors[member].snapshot_epoch = epochs[member] - 1

    def failure_reason(self, member: int, train_loss: float, val_loss: float, val_score: float) -> str | None:
        """What is wrong with this member's epoch, or None. Its score in percent."""
        monitor = self.monitors[member]
        if not (math.isfinite(train_loss) and math.isfinite(val_loss)):
            return "the loss is not finite"
        limit = self.config.explode_factor * monitor.first_loss
        if train_loss > limit:
            return f"training exploded: loss {train_loss:.3g} is above {limit:.3g}"
        if val_score < monitor.best_score - self.config.collapse_points:
            return f"training collapsed: validation {val_score:.1f}% after {monitor.best_score:.1f}%"
        monitor.best_score = max(monitor.best_score, val_score)
        return None

    def roll_back(self, member: int, population: Members) -> tuple[int, bool]:
        """Put a member back to its last copy; returns that copy's epoch, and whether the member is retired by it."""
        monitor = self.monitors[member]
        assert self.snapshot is not None and monitor.snapshot_epoch is not None
        restore_snapshot(population, self.snapshot, [member])
        monitor.rollbacks += 1
        return monitor.snapshot_epoch, monitor.rollbacks >= self.config.max_rollbacks

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors of the snapshot, and plain values."""
        tensors, snapshot = ({}, None) if self.snapshot is None else split_snapshot(GOVERNOR, self.snapshot)
        watches = [list(astuple(self.monitors[member])) for member in sorted(self.monitors)]
        return tensors, {"watches": watches, "snapshot": snapshot}

    def load_state(self, tensors: Mapping[str, Tensor], plain: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        kept = plain["snapshot"]
        self.snapshot = None if kept is None else join_snapshot(GOVERNOR, tensors, kept)
        self.monitors = {member: _Monitor(*values) for member, values in enumerate(plain["watches"])}

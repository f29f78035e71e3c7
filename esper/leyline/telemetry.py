"""Seed telemetry, events and performance budgets."""

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

EVENT_SCHEMA_VERSION = 1


def _finite(value: float, fallback: float = 0.0) -> float:
    return float(value) if math.isfinite(value) else fallback


@dataclass(slots=True)
class SeedTelemetry:
    """What a learned controller sees of one seed. Accuracies in percent."""

    seed_id: str
    blueprint_id: str = ""
    layer_id: str = ""
    gradient_norm: float = 0.0
    gradient_health: float = 1.0
    has_vanishing: bool = False
    has_exploding: bool = False
    accuracy: float = 0.0
    accuracy_delta: float = 0.0
    epochs_in_stage: int = 0
    stage: int = 1
    alpha: float = 0.0
    epoch: int = 0
    max_epochs: int = 25
    captured_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def to_features(self) -> list[float]:
        """Ten finite floats, the order fixed by the public contract; a value that is not finite becomes 0."""
        return [
            min(_finite(self.gradient_norm, 10.0 if self.gradient_norm == math.inf else 0.0), 10.0) / 10.0,
            _finite(self.gradient_health),
            float(self.has_vanishing),
            float(self.has_exploding),
            min(self.epochs_in_stage, 50) / 50.0,
            _finite(self.accuracy) / 100.0,
            max(-1.0, min(1.0, _finite(self.accuracy_delta) / 10.0)),
            (self.stage - 1) / 6.0,
            _finite(self.alpha),
            self.epoch / max(self.max_epochs, 1),
        ]

    @classmethod
    def feature_dim(cls) -> int:
        """Length of `to_features()`."""
        return 10


class TelemetryEventType(StrEnum):
    """Everything worth a line in events.jsonl."""

    GERMINATED = "germinated"
    STAGE_CHANGED = "stage_changed"
    FOSSILIZED = "fossilized"
    CULLED = "culled"
    GATE_EVALUATED = "gate_evaluated"
    ACTION_REFUSED = "action_refused"
    GOVERNOR_ROLLBACK = "governor_rollback"
    MEMBER_RETIRED = "member_retired"
    FINAL_TRAINED = "final_trained"
    CHECKPOINT_SAVED = "checkpoint_saved"
    RUN_STARTED = "run_started"
    RUN_RESUMED = "run_resumed"
    RUN_FINISHED = "run_finished"


@dataclass(slots=True)
class TelemetryEvent:
    """One thing that happened. `data` holds plain JSON values only."""

    event_type: TelemetryEventType
    epoch: int = 0
    member: int | None = None
    slot_id: str = ""
    seed_id: str = ""
    message: str = ""
    data: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as written to events.jsonl."""
        return {
            "schema": EVENT_SCHEMA_VERSION,
            "type": self.event_type.value,
            "epoch": self.epoch,
            "member": self.member,
            "slot": self.slot_id,
            "seed": self.seed_id,
            "message": self.message,
            "data": self.data,
        }


@dataclass(frozen=True, slots=True)
class PerformanceBudgets:
    """Upper bounds that benchmarks hold esper to, as shares of an epoch's wall time or of memory."""

    telemetry_share: float = 0.02
    control_share: float = 0.05
    single_member_overhead: float = 0.10
    memory_factor: float = 1.3


DEFAULT_BUDGETS = PerformanceBudgets()

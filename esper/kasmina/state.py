"""What is known of one seed."""

from collections import deque
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from esper.errors import LifecycleError
from esper.kasmina.blending import AlphaSchedule
from esper.leyline import VALID_TRANSITIONS, SeedMetrics, SeedStage, SeedTelemetry, is_valid_transition

_HISTORY_LENGTH = 100
_GROWING = (SeedStage.GERMINATED, SeedStage.TRAINING, SeedStage.BLENDING)
_PLANTED = (*_GROWING, SeedStage.PROBATIONARY, SeedStage.FOSSILIZED, SeedStage.CULLED)


def _now() -> datetime:
    return datetime.now(UTC)


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    """The same, where figures that came from NumPy or torch are numbers."""
    return {name: value.item() if hasattr(value, "item") else value for name, value in values.items()}


def _history() -> deque[tuple[SeedStage, datetime]]:
    return deque(maxlen=_HISTORY_LENGTH)


@dataclass(slots=True, kw_only=True)
class SeedState:
    """One seed's place in its life. Fields may be assigned directly; `transition` alone checks legality.

    `stage_history` holds (stage, when it was entered). The `ramp_*` fields tell how far the present ramp of alpha has
    come, in training steps: up while BLENDING, down from `ramp_start` while CULLED.
    """

    seed_id: str
    blueprint_id: str
    slot_id: str = ""
    stage: SeedStage = SeedStage.DORMANT
    previous_stage: SeedStage = SeedStage.UNKNOWN
    stage_entered_at: datetime = field(default_factory=_now)
    alpha: float = 0.0
    metrics: SeedMetrics = field(default_factory=SeedMetrics)
    is_healthy: bool = True
    is_paused: bool = False
    stage_history: deque[tuple[SeedStage, datetime]] = field(default_factory=_history)
    telemetry: SeedTelemetry = field(default=None)  # type: ignore[assignment]  # made below, from the ids
    blend_algorithm_id: str = "sigmoid"
    ramp_start: float = 0.0
    ramp_step: int = 0
    ramp_steps: int = 10

    def __post_init__(self) -> None:
        if self.telemetry is None:
            self.telemetry = SeedTelemetry(seed_id=self.seed_id, blueprint_id=self.blueprint_id, layer_id=self.slot_id)

    def __setattr__(self, name: str, value: Any) -> None:
        # A blend that is over is whole, also when the stage was assigned and not reached through transition().
        is_past_blending = name == "stage" and value in (SeedStage.PROBATIONARY, SeedStage.FOSSILIZED)
        if is_past_blending and getattr(self, "stage", value) is not value:
            object.__setattr__(self, "alpha", 1.0)
        object.__setattr__(self, name, value)

    def transition(self, stage: SeedStage) -> None:
        """Enter the stage. Raises: LifecycleError, with nothing changed, when it cannot follow the present one."""
        if not is_valid_transition(self.stage, stage):
            allowed = ", ".join(target.name for target in VALID_TRANSITIONS[self.stage]) or "nothing (it is final)"
            raise LifecycleError(
                f"seed {self.seed_id!r} in slot {self.slot_id!r} cannot go from {self.stage.name} to {stage.name}: "
                f"{self.stage.name} may be followed by {allowed}"
            )
        self.previous_stage, self.stage = self.stage, stage
        self.stage_entered_at = _now()
        self.stage_history.append((stage, self.stage_entered_at))
        self.metrics.start_stage()
        if stage in (SeedStage.BLENDING, SeedStage.EMBARGOED):
            self.alpha = 0.0
        if stage in (SeedStage.BLENDING, SeedStage.CULLED):
            self.start_ramp(self.ramp_steps)

    @property
    def has_seed(self) -> bool:
        """Whether a seed in this stage has a module."""
        return self.stage in _PLANTED

    @property
    def has_gate(self) -> bool:
        """Whether a seed in this stage has a blend gate: until the blend is whole, and on the way down from there."""
        stage = self.previous_stage if self.stage is SeedStage.CULLED else self.stage
        return self.blend_algorithm_id == "gated" and stage in _GROWING

    @property
    def alpha_schedule(self) -> AlphaSchedule | None:
        """The ramp under way: up while BLENDING, down while CULLED, else None."""
        match self.stage:
            case SeedStage.BLENDING:
                return AlphaSchedule(self.blend_algorithm_id, self.ramp_steps, self.ramp_start, 1.0)
            case SeedStage.CULLED:
                return AlphaSchedule("linear", self.ramp_steps, self.ramp_start, 0.0)
            case _:
                return None

    def alpha_at(self, step: int) -> float:
        """Alpha `step` training steps from now; nothing moves."""
        schedule = self.alpha_schedule
        return self.alpha if schedule is None or step == 0 else schedule.alpha_at(self.ramp_step + step)

    def step(self, n: int = 1) -> None:
        """Count n training steps: the ramp under way, if any, moves on."""
        if self.alpha_schedule is not None:
            self.alpha = self.alpha_at(n)
            self.ramp_step += n

    def start_ramp(self, steps: int) -> None:
        """Begin the stage's ramp at the present alpha, over so many training steps."""
        self.ramp_start, self.ramp_step, self.ramp_steps = self.alpha, 0, steps

    def sync_telemetry(
        self,
        gradient_norm: float,
        gradient_health: float,
        has_vanishing: bool,
        has_exploding: bool,
        epoch: int = 0,
        max_epochs: int = 25,
    ) -> None:
        """Bring `telemetry` up to date: these gradient figures, and everything else from the state itself."""
        telemetry = self.telemetry
        telemetry.gradient_norm = gradient_norm
        telemetry.gradient_health = gradient_health
        telemetry.has_vanishing = has_vanishing
        telemetry.has_exploding = has_exploding
        telemetry.epoch = epoch
        telemetry.max_epochs = max_epochs
        telemetry.accuracy = self.metrics.current_val_accuracy
        telemetry.accuracy_delta = self.metrics.improvement_since_stage_start
        telemetry.epochs_in_stage = self.metrics.epochs_in_current_stage
        telemetry.stage = int(self.stage)
        telemetry.alpha = self.alpha
        telemetry.captured_at = _now()

    def to_dict(self) -> dict[str, Any]:
        """Plain values only (enum to int, datetime to ISO 8601, deque to list); `from_dict` gives an equal state."""
        plain = _numbers({entry.name: getattr(self, entry.name) for entry in fields(self)})
        plain["stage"] = int(self.stage)
        plain["previous_stage"] = int(self.previous_stage)
        plain["stage_entered_at"] = self.stage_entered_at.isoformat()
        plain["stage_history"] = [[int(stage), entered_at.isoformat()] for stage, entered_at in self.stage_history]
        plain["metrics"] = _numbers(asdict(self.metrics))
        plain["telemetry"] = _numbers(asdict(self.telemetry)) | {"captured_at": self.telemetry.captured_at.isoformat()}
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "SeedState":
        """The state that `to_dict` described."""
        history = _history()
        history.extend((SeedStage(stage), datetime.fromisoformat(at)) for stage, at in plain["stage_history"])
        telemetry = plain["telemetry"]
        return cls(
            **plain
            | {
                "stage": SeedStage(plain["stage"]),
                "previous_stage": SeedStage(plain["previous_stage"]),
                "stage_entered_at": datetime.fromisoformat(plain["stage_entered_at"]),
                "stage_history": history,
                "metrics": SeedMetrics(**plain["metrics"]),
                "telemetry": SeedTelemetry(
                    **telemetry | {"captured_at": datetime.fromisoformat(telemetry["captured_at"])}
                ),
            }
        )

"""What is reported of a member at the end of an epoch, and how reports become plain values."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from esper.kasmina.host import MorphogeneticModel
from esper.kasmina.slot import QualityGates, SeedSlot
from esper.leyline import (
    ADVANCES,
    LEAST_SCORE,
    Action,
    EpochReport,
    Operation,
    SeedStage,
    SeedStateReport,
    TelemetryEvent,
)


class Score(NamedTuple):
    """Of one member: loss, score in percent, and of a regression the error in the targets' own unit."""

    loss: float
    score: float
    rmse: float = math.nan


UNKNOWN = Score(math.nan, math.nan)


@dataclass(slots=True)
class Epoch:
    """One that is under way: the reports it began with, what is asked of each member, and what has happened.

    refused: members whose action was not done; is_retired: of members that are put back, whether that retires them.
    """

    before: list[EpochReport]
    asked: list[Action]
    events: list[TelemetryEvent]
    refused: set[int | None]
    trained: list[Score] = field(default_factory=list)
    validated: Sequence[Score] = ()
    without: list[dict[str, Score]] = field(default_factory=list)
    is_retired: dict[int, bool] = field(default_factory=dict)


def member_report(
    model: MorphogeneticModel,
    gates: QualityGates,
    input_shape: Sequence[int],
    trained: Score,
    validated: Score,
    without: Mapping[str, Score],
    **known: Any,
) -> EpochReport:
    """One member at the end of an epoch.

    Args: input_shape: of one sample; without: slot -> validation with its seed left out; known: the other fields.
    """
    return EpochReport(
        train_loss=trained.loss,
        train_accuracy=trained.score,
        val_loss=validated.loss,
        val_accuracy=validated.score,
        val_rmse=validated.rmse,
        parameter_count=model.parameter_count(),
        flops_per_sample=model.flops_per_sample(input_shape),
        slots={name: slot_report(slot, gates, validated, without.get(name)) for name, slot in model.slots.items()},
        **known,
    )


def slot_report(slot: SeedSlot, gates: QualityGates, validated: Score, without: Score | None) -> SeedStateReport:
    """One slot of a member whose validation gave this."""
    state = slot.state
    if state is None:
        return SeedStateReport(slot.slot_id)
    worth_loss = math.nan if without is None else without.loss - validated.loss
    return SeedStateReport(
        slot_id=slot.slot_id,
        stage=state.stage,
        seed_id=state.seed_id,
        blueprint_id=state.blueprint_id,
        blend_algorithm_id=state.blend_algorithm_id,
        alpha=state.alpha,
        epochs_in_stage=state.metrics.epochs_in_current_stage,
        epochs_total=state.metrics.epochs_total,
        improvement=state.metrics.improvement_since_stage_start,
        contribution=None if without is None else validated.score - without.score,
        contribution_loss=worth_loss if math.isfinite(worth_loss) else None,
        gradient_norm=state.telemetry.gradient_norm,
        gradient_health=state.telemetry.gradient_health,
        has_vanishing=state.telemetry.has_vanishing,
        has_exploding=state.telemetry.has_exploding,
        gradient_norm_ratio=state.metrics.seed_gradient_norm_ratio,
        parameter_count=state.metrics.parameter_count,
        is_healthy=state.is_healthy,
        can_advance=state.stage in ADVANCES and gates.check_gate(state, ADVANCES[state.stage]).passed,
    )


class LastReports:
    """The last report of each member that has one.

    Args: grown: members before the first twin; max_epochs: of a member's course.
    """

    def __init__(
        self,
        models: Sequence[MorphogeneticModel],
        gates: QualityGates,
        input_shape: Sequence[int],
        grown: int,
        max_epochs: int,
    ) -> None:
        self._models, self._gates, self._input_shape = models, gates, input_shape
        self._grown, self._max_epochs = grown, max_epochs
        self._known: dict[int, EpochReport] = {}

    @property
    def missing(self) -> list[int]:
        """Members that have none."""
        return [member for member in range(len(self._models)) if member not in self._known]

    def all(self) -> list[EpochReport]:
        """Of every member, where none is missing."""
        return [self._known[member] for member in range(len(self._models))]

    def forget(self, member: int) -> None:
        """It begins anew."""
        self._known.pop(member, None)

    def note(
        self,
        member: int,
        trained: Score,
        validated: Score,
        without: Mapping[str, Score],
        best_before: float = LEAST_SCORE,
        **known: Any,
    ) -> None:
        """What a member is now; see `member_report`."""
        self._known[member] = member_report(
            self._models[member],
            self._gates,
            self._input_shape,
            trained,
            validated,
            without,
            member=member,
            max_epochs=self._max_epochs,
            best_val_accuracy=max(validated.score, best_before),
            is_twin=member >= self._grown,
            **known,
        )

    def load_state(self, plain: Sequence[Mapping[str, Any]]) -> None:
        """Take over what `plain_report` said of them."""
        self._known = {report.member: report for report in map(report_from_plain, plain)}


def plain_report(report: EpochReport) -> dict[str, Any]:
    """JSON values; a figure that is not finite becomes None."""
    plain: dict[str, Any] = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in asdict(report).items()
    }
    for slot in plain["slots"].values():
        slot["stage"] = int(slot["stage"])
    plain["action"]["operation"] = int(report.action.operation)
    return plain


def report_from_plain(plain: Mapping[str, Any]) -> EpochReport:
    """The report that `plain_report` described; None becomes NaN."""
    known: dict[str, Any] = {name: math.nan if value is None else value for name, value in plain.items()}
    known["slots"] = {
        name: SeedStateReport(**slot | {"stage": SeedStage(slot["stage"])}) for name, slot in plain["slots"].items()
    }
    known["action"] = Action(**plain["action"] | {"operation": Operation(plain["action"]["operation"])})
    return EpochReport(**known)

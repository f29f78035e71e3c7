"""What happened to a seed, as events. Whoever knows the epoch and the member fills them in."""

from esper.kasmina.state import SeedState
from esper.leyline import GateResult, SeedStage, TelemetryEvent, TelemetryEventType

_LANDMARKS = {
    SeedStage.GERMINATED: TelemetryEventType.GERMINATED,
    SeedStage.FOSSILIZED: TelemetryEventType.FOSSILIZED,
    SeedStage.CULLED: TelemetryEventType.CULLED,
}


def gate_evaluated(state: SeedState, result: GateResult, target: SeedStage) -> TelemetryEvent:
    """A gate gave its verdict on the way to the target stage."""
    return TelemetryEvent(
        TelemetryEventType.GATE_EVALUATED,
        slot_id=state.slot_id,
        seed_id=state.seed_id,
        message=result.message,
        data={
            "gate": result.gate.name,
            "passed": result.passed,
            "score": result.score,
            "target": target.name,
            "checks_passed": list(result.checks_passed),
            "checks_failed": list(result.checks_failed),
        },
    )


def is_refusal(event: TelemetryEvent) -> bool:
    """Whether the event says that what was asked for was not done: it could not be, or a gate stayed shut."""
    return event.event_type is TelemetryEventType.ACTION_REFUSED or event.data.get("passed") is False


def stage_changed(state: SeedState, reason: str) -> list[TelemetryEvent]:
    """The seed entered its present stage; the landmarks (planted, fossil, culled) have an event of their own too."""
    data = {
        "from": state.previous_stage.name,
        "to": state.stage.name,
        "blueprint": state.blueprint_id,
        "blend": state.blend_algorithm_id,
        "reason": reason,
    }
    kinds = [TelemetryEventType.STAGE_CHANGED]
    if state.stage in _LANDMARKS:
        kinds.append(_LANDMARKS[state.stage])
    return [
        TelemetryEvent(kind, slot_id=state.slot_id, seed_id=state.seed_id, message=reason, data=dict(data))
        for kind in kinds
    ]

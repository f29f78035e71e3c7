"""One slot of one member as IQL knows it: what it sees, what it may do, and what was done."""

import math
import warnings
from collections.abc import Collection
from dataclasses import asdict

from esper.errors import LearnerError
from esper.leyline import (
    ADVANCES,
    CULLABLE,
    Action,
    EpochReport,
    Operation,
    SeedStage,
    SeedStateReport,
    SeedTelemetry,
    SimicAction,
    is_active_stage,
)
from esper.leyline.blueprints import family_of
from esper.simic.episodes import TrainingSnapshot
from esper.simic.features import BASE_FEATURES, obs_to_base_features
from esper.tamiyo.signals import SignalTracker, TrainingSignals

BASE_DIM = len(BASE_FEATURES)
SEED_DIM = BASE_DIM + SeedTelemetry.feature_dim()
STATE_DIMS = (BASE_DIM, SEED_DIM)

PLANTING = tuple(action for action in SimicAction if action.name.startswith("GERMINATE"))


def snapshot_to_features(
    snapshot: TrainingSnapshot, use_telemetry: bool = False, seed_telemetry: SeedTelemetry | None = None
) -> list[float]:
    """The 27 base features of a snapshot; with telemetry 37, the seed's 10 last.

    Telemetry that is asked for and not given: a UserWarning and ten zeros.
    """
    features = obs_to_base_features(asdict(snapshot))
    if not use_telemetry:
        return features
    if seed_telemetry is None:
        warnings.warn(
            "use_telemetry=True without seed_telemetry: its ten features are zeros. Pass seed_telemetry=.",
            UserWarning,
            stacklevel=2,
        )
        return features + [0.0] * SeedTelemetry.feature_dim()
    return features + seed_telemetry.to_features()


def take_snapshot(report: EpochReport, slot: str, signals: TrainingSignals) -> TrainingSnapshot:
    """A member with one of its slots. signals: the member's course up to this report.

    Reports count epochs and no steps, so `global_step` counts decisions: the epoch once more. Histories begin with
    zeros, and what is not known (an untrained host's training loss) is zero.
    """
    seed = report.slots[slot]
    return TrainingSnapshot(
        epoch=report.epoch,
        global_step=report.epoch,
        train_loss=_known(report.train_loss),
        val_loss=_known(report.val_loss),
        loss_delta=signals.loss_delta,
        train_accuracy=_known(report.train_accuracy),
        val_accuracy=_known(report.val_accuracy),
        accuracy_delta=signals.accuracy_delta,
        plateau_epochs=signals.plateau_epochs,
        best_val_accuracy=signals.best_val_accuracy,
        best_val_loss=signals.best_val_loss or 0.0,
        loss_history_5=_last_five(signals.loss_history),
        accuracy_history_5=_last_five(signals.accuracy_history),
        has_active_seed=is_active_stage(seed.stage),
        seed_stage=int(seed.stage),
        seed_epochs_in_stage=seed.epochs_in_stage,
        seed_alpha=seed.alpha,
        seed_improvement=_known(seed.improvement),
        available_slots=sum(other.stage is SeedStage.DORMANT for other in report.slots.values()),
    )


def take_telemetry(report: EpochReport, slot: str) -> SeedTelemetry:
    """The telemetry of a slot's seed; of an empty slot, that of no seed at this accuracy and epoch."""
    seed = report.slots[slot]
    return SeedTelemetry(
        seed_id=seed.seed_id,
        blueprint_id=seed.blueprint_id,
        layer_id=slot,
        gradient_norm=seed.gradient_norm,
        gradient_health=seed.gradient_health,
        has_vanishing=seed.has_vanishing,
        has_exploding=seed.has_exploding,
        accuracy=report.val_accuracy,
        accuracy_delta=seed.improvement,
        epochs_in_stage=seed.epochs_in_stage,
        stage=int(seed.stage),
        alpha=seed.alpha,
        epoch=report.epoch,
        max_epochs=report.max_epochs,
    )


class SlotWatcher:
    """The states of one member's slots, from its reports in order; a report of epoch 0 begins anew.

    Args: dims: 27 base features, or 37 with the seed's telemetry.
    """

    def __init__(self, dims: int) -> None:
        if dims not in STATE_DIMS:
            raise LearnerError(f"{dims} features a slot: expected {BASE_DIM}, or {SEED_DIM} with a seed's telemetry.")
        self.use_telemetry = dims == SEED_DIM
        self.tracker = SignalTracker()

    def states(self, report: EpochReport) -> dict[str, list[float]]:
        """Take in a report, and give every slot's features. [S] each"""
        if report.epoch == 0:
            self.tracker = SignalTracker()
        signals = self.tracker.update(report)
        return {
            slot: snapshot_to_features(
                take_snapshot(report, slot, signals), self.use_telemetry, take_telemetry(report, slot)
            )
            for slot in report.slots
        }


def legal_actions_of(seed: SeedStateReport, plantable: Collection[SimicAction] = PLANTING) -> list[bool]:
    """Which of the seven actions would be done if they were asked for. plantable: families that the host has."""
    return [
        action is SimicAction.WAIT
        or (action in plantable and seed.stage is SeedStage.DORMANT)
        or (action is SimicAction.ADVANCE and seed.stage in ADVANCES and seed.can_advance)
        or (action is SimicAction.CULL and seed.stage in CULLABLE)
        for action in SimicAction
    ]


def action_asked(action: Action, slot: str) -> SimicAction | None:
    """What an action asks of a slot: a wait if it is for another. None: to plant what nobody has registered."""
    if action.slot != slot:
        return SimicAction.WAIT
    match action.operation:
        case Operation.GERMINATE:
            family = family_of(action.blueprint)
            return None if family is None else SimicAction[f"GERMINATE_{family.upper()}"]
        case Operation.ADVANCE:
            return SimicAction.ADVANCE
        case Operation.CULL:
            return SimicAction.CULL
        case Operation.WAIT:
            return SimicAction.WAIT


def action_done(after: EpochReport, slot: str) -> SimicAction | None:
    """What was done with a slot in the epoch that this report ends: as it was asked, or a wait if it was refused."""
    return SimicAction.WAIT if after.is_refused else action_asked(after.action, slot)


def _known(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _last_five(history: list[float]) -> tuple[float, ...]:
    recent = history[-5:]
    return (*(0.0,) * (5 - len(recent)), *recent)

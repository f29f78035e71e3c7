"""What a run writes down: an epoch's record for metrics.jsonl, and the summary at the end."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from esper.files.records import ENGINE, EPOCHS
from esper.files.shapes import ANY, of_dataclass
from esper.kasmina.state import SeedState
from esper.leyline import (
    ACCURACY,
    R_SQUARED,
    EpochReport,
    ScoreKind,
    SeedStateReport,
    TelemetryEvent,
    TelemetryEventType,
)
from esper.leyline.controls import TWIN, difference_name
from esper.nissa.hub import finite
from esper.nissa.statistics import paired_difference

SCHEMA_VERSION = 2
_POPULATION = {"members": {ANY: [int]}, "seeds": [{ANY: (of_dataclass(SeedState), None)}], "states": [dict]}
_GROWTH = {
    "epoch": EPOCHS,
    "episodes": [[int]],
    "population": _POPULATION,
    "governor": {"watches": [[(float, None)]], "snapshot": (_POPULATION, None)},
    "growth_log": [dict],
    "reports": [of_dataclass(EpochReport, number=(float, None))],  # not finite: None
}
# Of the sidecar of a run's checkpoint: what all runs have, and the hosts on which a policy learns.
CHECKPOINT = {
    "metadata": {"engine": ENGINE},
    "state": {
        "growth": _GROWTH,
        "controller": dict,
        "seeds": {ANY: EPOCHS},
        "finals": _GROWTH,
        "learning": {"env": {"growth": _GROWTH}},
    },
}
SEED_EVENTS = {
    TelemetryEventType.GERMINATED: "planted",
    TelemetryEventType.CULLED: "culled",
    TelemetryEventType.FOSSILIZED: "fossilized",
}


@dataclass(frozen=True, slots=True)
class EpochTimes:
    """Wall time of one epoch in seconds, and how many training samples all members saw together."""

    wall_s: float
    train_s: float
    validation_s: float
    counterfactual_s: float
    samples: int
    members: int


def epoch_record(
    reports: Sequence[EpochReport], times: EpochTimes, twin_of: Mapping[int, int], kind: ScoreKind = ACCURACY
) -> dict[str, Any]:
    """One line of metrics.jsonl. twin_of: member -> the grown member whose twin it is; kind: of its scores."""
    return {
        "schema": SCHEMA_VERSION,
        "epoch": reports[0].epoch,
        "wall_s": times.wall_s,
        "train_s": times.train_s,
        "validation_s": times.validation_s,
        "counterfactual_s": times.counterfactual_s,
        "samples_per_s": times.samples / times.train_s if times.train_s else None,
        "host_epochs_per_s": times.members / times.wall_s if times.samples and times.wall_s else None,
        "members": [_member(report, twin_of.get(report.member), kind) for report in reports],
    }


def update_record(update: int, metrics: Mapping[str, float | None], wall_s: float) -> dict[str, Any]:
    """One line of learning.jsonl. metrics: of `Training.step`, under the names of nissa.metric_names."""
    return {"schema": 1, "update": update, "wall_s": wall_s, **metrics}


def _member(report: EpochReport, twin_of: int | None, kind: ScoreKind) -> dict[str, Any]:
    return {
        "member": report.member,
        "is_twin": report.is_twin,
        "twin_of": twin_of,
        "train_loss": report.train_loss,
        f"train_{kind.name}": report.train_accuracy,
        "val_loss": report.val_loss,
        f"val_{kind.name}": report.val_accuracy,
        **({"val_rmse": report.val_rmse} if kind is R_SQUARED else {}),
        "parameter_count": report.parameter_count,
        "flops_per_sample": report.flops_per_sample,
        "training_flops": report.training_flops,
        "rolled_back": report.rolled_back,
        "retired": report.retired,
        "action": _action(report),
        "slots": {name: _slot(slot) for name, slot in report.slots.items()},
    }


def _action(report: EpochReport) -> dict[str, Any]:
    """What was asked for before the epoch, and whether it was done."""
    asked = report.action
    plain = {"operation": asked.operation.name, "slot": asked.slot, "blueprint": asked.blueprint, "blend": asked.blend}
    return plain | {"is_refused": report.is_refused}


def _slot(slot: SeedStateReport) -> dict[str, Any]:
    return {
        "stage": slot.stage.name,
        "stage_value": slot.stage.value,
        "seed": slot.seed_id,
        "blueprint": slot.blueprint_id,
        "blend": slot.blend_algorithm_id,
        "alpha": slot.alpha,
        "epochs_in_stage": slot.epochs_in_stage,
        "epochs_total": slot.epochs_total,
        "contribution": slot.contribution,
        "contribution_loss": slot.contribution_loss,
        "gradient_norm": slot.gradient_norm,
        "gradient_health": slot.gradient_health,
        "has_vanishing": slot.has_vanishing,
        "has_exploding": slot.has_exploding,
        "gradient_norm_ratio": slot.gradient_norm_ratio,
        "improvement": slot.improvement,
        "parameter_count": slot.parameter_count,
        "is_healthy": slot.is_healthy,
        "can_advance": slot.can_advance,
    }


def count_seeds(events: Sequence[TelemetryEvent], counts: Mapping[str, int]) -> dict[str, int]:
    """Seeds planted, culled and fossilised so far, with these events counted in."""
    fresh = Counter(SEED_EVENTS[event.event_type] for event in events if event.event_type in SEED_EVENTS)
    return {name: counts.get(name, 0) + fresh[name] for name in SEED_EVENTS.values()}


def checkpoint_metrics(reports: Sequence[EpochReport], kind: ScoreKind = ACCURACY) -> dict[str, float | None]:
    """What checkpoints are ranked by: means over grown members whose value is finite, None where there are none."""
    metrics: dict[str, float | None] = {}
    grown = [report for report in reports if not report.is_twin]
    for name, values in {
        f"val_{kind.name}": [report.val_accuracy for report in grown],
        "val_loss": [report.val_loss for report in grown],
    }.items():
        measured = [value for value in values if math.isfinite(value)]
        metrics[name] = sum(measured) / len(measured) if measured else None
    return metrics


def summarize(
    reports: Sequence[EpochReport],
    test: Mapping[str, Sequence[float]],
    twin_of: Mapping[int, int],
    seeds: Mapping[str, int],
    wall_s: float,
    kind: ScoreKind = ACCURACY,
) -> dict[str, Any]:
    """The summary in run.json: grown members, their twins, and the paired difference with its 95% interval.

    test: what was measured on the test split, name -> [M] in the order of `reports`. How many of them diverged
    stands there, too.
    """
    grown = [index for index, report in enumerate(reports) if report.member not in twin_of]
    place = {report.member: index for index, report in enumerate(reports)}
    twin_at = {place[original]: place[twin] for twin, original in twin_of.items()}
    measured = figures_of(reports, test, kind)
    summary: dict[str, Any] = {"grown": pick(measured, grown), "twin": None, "difference": None}
    if twin_at:
        summary |= compared(TWIN, summary["grown"], pick(measured, [twin_at[index] for index in grown]))
    diverged = [report.member for report in reports if has_diverged(report)]
    retired = {"grown": sum(m not in twin_of for m in diverged), "twin": sum(m in twin_of for m in diverged)}
    return finite(summary | {"seeds": dict(seeds), "retired": retired, "wall_s": wall_s})


def compared(control: str, grown: Mapping[str, list[Any]], figures: Mapping[str, list[Any]]) -> dict[str, Any]:
    """A control's part of the summary: its figures, and the grown members' scores minus its own, pair by pair."""
    scores = [name for name in grown if name.startswith(("test_", "val_"))]
    differences = {name: paired_difference(grown[name], figures[name]).to_dict() for name in scores}
    return finite({control: dict(figures), difference_name(control): differences})


def has_diverged(report: EpochReport) -> bool:
    """Whether nothing came of a member: it was retired, or put back after every single epoch."""
    return report.retired or 0 < report.epoch <= report.rollbacks


def figures_of(
    reports: Sequence[EpochReport], test: Mapping[str, Sequence[float]], kind: ScoreKind
) -> dict[str, list[Any]]:
    """What members came to: name -> a value a report. test: what was measured of them on the test split."""
    return {name: list(values) for name, values in test.items()} | {
        f"val_{kind.name}": [report.val_accuracy for report in reports],
        "parameters": [report.parameter_count for report in reports],
        "flops_per_sample": [report.flops_per_sample for report in reports],
        "training_flops": [report.training_flops for report in reports],
    }


def pick(figures: Mapping[str, list[Any]], indices: Sequence[int]) -> dict[str, list[Any]]:
    """Of `figures_of`, those of some."""
    return {name: [values[index] for index in indices] for name, values in figures.items()}

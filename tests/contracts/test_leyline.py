"""Contracts, section leyline."""

import dataclasses
import importlib
import math
from datetime import UTC, timedelta
from enum import Enum, IntEnum

import pytest

from esper import leyline
from esper.leyline import GateLevel, GateResult, SeedMetrics, SeedStage, SeedTelemetry, SimicAction, TaskConfig

NAMES = """
SeedStage VALID_TRANSITIONS is_valid_transition is_terminal_stage is_active_stage is_failure_stage
SeedMetrics SeedStateReport GateLevel GateResult TelemetryEvent TelemetryEventType PerformanceBudgets DEFAULT_BUDGETS
SeedTelemetry SimicAction TaskConfig
""".split()  # noqa: SIM905
STAGES = {
    "UNKNOWN": 0, "DORMANT": 1, "GERMINATED": 2, "TRAINING": 3, "BLENDING": 4, "PROBATIONARY": 6, "FOSSILIZED": 7,
    "CULLED": 8, "EMBARGOED": 9, "RESETTING": 10,
}  # fmt: skip
LIVE = ("GERMINATED", "TRAINING", "BLENDING", "PROBATIONARY")
MOVES = {
    *zip(("DORMANT", *LIVE), (*LIVE, "FOSSILIZED"), strict=True),
    *((stage, "CULLED") for stage in LIVE),
    ("CULLED", "EMBARGOED"), ("EMBARGOED", "RESETTING"), ("RESETTING", "DORMANT"),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_leyline_exports(name: str) -> None:
    assert getattr(leyline, name) is not None and name in leyline.__all__


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("esper.leyline.stages", "SeedStage"),
        ("esper.leyline.telemetry", "SeedTelemetry"),
        ("esper.kasmina.slot", "SeedMetrics"),
        ("esper.simic.features", "TaskConfig"),
    ],
)
def test_a_class_that_is_reachable_twice_is_one_class(module: str, name: str) -> None:
    assert getattr(importlib.import_module(module), name) is getattr(leyline, name)


def test_stages_have_their_values() -> None:
    assert issubclass(SeedStage, IntEnum)
    assert {stage.name: stage.value for stage in SeedStage} == STAGES


def test_the_legal_moves_are_these_and_no_others() -> None:
    between = {
        (before.name, after.name)
        for before in SeedStage
        for after in SeedStage
        if leyline.is_valid_transition(before, after)
    }
    assert {move for move in between if move[0] != "UNKNOWN"} == MOVES
    listed = {(before.name, after.name) for before, targets in leyline.VALID_TRANSITIONS.items() for after in targets}
    assert listed == between


def test_stages_end_act_and_fail() -> None:
    assert [stage.name for stage in SeedStage if leyline.is_terminal_stage(stage)] == ["FOSSILIZED"]
    assert {stage.name for stage in SeedStage if leyline.is_failure_stage(stage)} == {
        "CULLED", "EMBARGOED", "RESETTING",
    }  # fmt: skip
    for stage in SeedStage:
        if stage.name in ("TRAINING", "BLENDING", "PROBATIONARY"):
            assert leyline.is_active_stage(stage)
        if stage.name in ("UNKNOWN", "DORMANT", "CULLED", "EMBARGOED", "RESETTING"):
            assert not leyline.is_active_stage(stage)


def test_a_gate_result_takes_its_six_parts_in_order_or_by_name() -> None:
    assert [level.name for level in GateLevel] == ["G0", "G1", "G2", "G3", "G4", "G5"]
    result = GateResult(GateLevel.G2, False, 0.4, ["isolation_ok"], ["seed_gradient_low_0.01"], "not yet")
    assert result == GateResult(
        gate=GateLevel.G2,
        passed=False,
        score=0.4,
        checks_passed=["isolation_ok"],
        checks_failed=["seed_gradient_low_0.01"],
        message="not yet",
    )
    assert result.checks_failed == ["seed_gradient_low_0.01"]


def test_telemetry_needs_a_seed_id_and_knows_the_rest() -> None:
    with pytest.raises(TypeError, match="seed_id"):
        SeedTelemetry()
    values = dataclasses.asdict(SeedTelemetry(seed_id="s"))
    captured_at = values.pop("captured_at")
    assert captured_at.utcoffset() == timedelta(0) and captured_at.tzinfo is not None
    assert values == {
        "seed_id": "s", "blueprint_id": "", "layer_id": "", "gradient_norm": 0.0, "gradient_health": 1.0,
        "has_vanishing": False, "has_exploding": False, "accuracy": 0.0, "accuracy_delta": 0.0, "epochs_in_stage": 0,
        "stage": 1, "alpha": 0.0, "epoch": 0, "max_epochs": 25,
    }  # fmt: skip
    assert SeedTelemetry(seed_id="s").captured_at.astimezone(UTC) >= captured_at


@pytest.mark.parametrize("kind", [SeedTelemetry, SeedMetrics])
def test_slots_take_no_stray_fields(kind: type) -> None:
    instance = SeedTelemetry("s") if kind is SeedTelemetry else kind()
    assert not hasattr(instance, "__dict__")
    with pytest.raises(AttributeError):
        instance.acuracy = 1.0


def test_telemetry_becomes_ten_floats_in_order() -> None:
    telemetry = SeedTelemetry(
        seed_id="s", gradient_norm=2.5, gradient_health=0.9, has_vanishing=True, has_exploding=False,
        epochs_in_stage=5, accuracy=85.0, accuracy_delta=-2.5, stage=4, alpha=0.25, epoch=10, max_epochs=40,
    )  # fmt: skip
    features = telemetry.to_features()
    assert features == [0.25, 0.9, 1.0, 0.0, 0.1, 0.85, -0.25, 0.5, 0.25, 0.25]
    assert type(features) is list and all(type(value) is float for value in features)
    assert SeedTelemetry.feature_dim() == telemetry.feature_dim() == len(features) == 10
    assert SeedTelemetry("s").to_features() == [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("index", "changed", "expected"),
    [
        (0, {"gradient_norm": 10.0}, 1.0),
        (0, {"gradient_norm": 1e9}, 1.0),
        (0, {"gradient_norm": math.inf}, 1.0),
        (3, {"has_exploding": True}, 1.0),
        (4, {"epochs_in_stage": 50}, 1.0),
        (4, {"epochs_in_stage": 51}, 1.0),
        (5, {"accuracy": 100.0}, 1.0),
        (6, {"accuracy_delta": 30.0}, 1.0),
        (6, {"accuracy_delta": -30.0}, -1.0),
        (7, {"stage": 7}, 1.0),
        (9, {"epoch": 3, "max_epochs": 0}, 3.0),
        (9, {"epoch": 25}, 1.0),
    ],
)
def test_telemetry_clamps(index: int, changed: dict, expected: float) -> None:
    assert SeedTelemetry("s", **changed).to_features()[index] == expected


def test_a_telemetry_that_is_not_finite_still_gives_finite_features() -> None:
    broken = SeedTelemetry(
        "s", gradient_norm=math.nan, gradient_health=math.nan, accuracy=math.nan, accuracy_delta=math.nan
    )
    assert all(math.isfinite(value) for value in broken.to_features())


def test_simic_actions() -> None:
    assert issubclass(SimicAction, Enum)
    assert {action.name: action.value for action in SimicAction} == {
        "WAIT": 0, "GERMINATE_CONV": 1, "GERMINATE_ATTENTION": 2, "GERMINATE_NORM": 3, "GERMINATE_DEPTHWISE": 4,
        "ADVANCE": 5, "CULL": 6,
    }  # fmt: skip


def test_a_task_config_names_topology_and_blending_steps_first() -> None:
    assert TaskConfig("transformer", 7) == TaskConfig(topology="transformer", blending_steps=7)
    assert TaskConfig("transformer", 7).blending_steps == 7


def test_metrics_start_empty_and_every_field_is_assignable() -> None:
    metrics = SeedMetrics()
    defaults = {
        "epochs_total": 0, "epochs_in_current_stage": 0, "improvement_since_stage_start": 0.0,
        "counterfactual_contribution": None, "isolation_violations": 0, "blending_delta": None,
        "seed_gradient_norm_ratio": 0.0, "current_val_accuracy": 0.0,
    }  # fmt: skip
    assert {name: getattr(metrics, name) for name in defaults} == defaults
    for name in defaults:
        setattr(metrics, name, 3)
        assert getattr(metrics, name) == 3


def test_metrics_record_an_accuracy_in_percent() -> None:
    metrics = SeedMetrics()
    for percent in (40.0, 55.0, 50.0):
        metrics.record_accuracy(percent)
    assert (metrics.epochs_total, metrics.epochs_in_current_stage) == (3, 3)
    assert (metrics.current_val_accuracy, metrics.improvement_since_stage_start) == (50.0, 10.0)

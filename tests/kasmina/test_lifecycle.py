import pytest
import torch

from esper.errors import ConfigError, LifecycleError
from esper.kasmina import GateConfig, QualityGates, SeedSlot, SlotConfig
from esper.leyline import GateLevel, SeedStage, TelemetryEventType

OPEN = QualityGates(
    GateConfig(min_training_improvement=-100.0, min_training_epochs=0, min_gradient_ratio=0.0, min_contribution=-100.0)
)


def stages_of(events) -> list[str]:
    return [event.data["to"] for event in events if event.event_type is TelemetryEventType.STAGE_CHANGED]


@pytest.fixture
def slot() -> SeedSlot:
    slot = SeedSlot("mid", channels=4, config=SlotConfig(blending_steps=4, cull_steps=8, embargo_epochs=2))
    slot.germinate("conv_light", "s", blend_algorithm_id="gated")
    return slot


def test_a_seed_lives_from_planting_to_fossil(slot):
    events = slot.end_epoch(50.0, OPEN)
    assert slot.stage is SeedStage.TRAINING
    assert [event.event_type for event in events] == [
        TelemetryEventType.GATE_EVALUATED,
        TelemetryEventType.STAGE_CHANGED,
    ]
    assert events[0].data["gate"] == "G1"
    assert events[0].data["passed"] is True
    assert events[1].data == {
        "from": "GERMINATED",
        "to": "TRAINING",
        "blueprint": "conv_light",
        "blend": "gated",
        "reason": "planted",
    }
    assert (events[1].slot_id, events[1].seed_id) == ("mid", "s")

    assert slot.end_epoch(51.0, OPEN) == []  # it waits for the controller
    assert slot.advance(OPEN).gate is GateLevel.G2
    assert slot.stage is SeedStage.BLENDING

    slot.step(3)
    assert slot.alpha == 0.75
    assert slot.end_epoch(52.0, OPEN) == []
    slot.step(3)
    assert slot.alpha == 1.0
    assert slot.gate is not None
    assert stages_of(slot.end_epoch(53.0, OPEN)) == ["PROBATIONARY"]
    assert slot.gate is None

    result = slot.advance(OPEN)
    assert (result.gate, result.passed) == (GateLevel.G4, False)  # no epoch on probation yet
    assert slot.stage is SeedStage.PROBATIONARY
    slot.end_epoch(54.0, OPEN)
    assert slot.advance(OPEN).checks_failed == ["contribution_unknown"]
    slot.state.metrics.counterfactual_contribution = 1.0
    assert slot.advance(OPEN).passed
    assert slot.stage is SeedStage.FOSSILIZED
    assert slot.end_epoch(55.0, OPEN) == []
    with pytest.raises(LifecycleError, match="cannot cull in FOSSILIZED"):
        slot.cull()
    assert slot.seed is not None


def test_a_culled_seed_ramps_down_leaves_and_the_slot_is_free_again(slot):
    slot.end_epoch(50.0, OPEN)
    slot.advance(OPEN)
    slot.step(2)
    events = slot.cull("costs more than it gives")
    assert [event.event_type for event in events] == [TelemetryEventType.STAGE_CHANGED, TelemetryEventType.CULLED]
    assert events[1].data["reason"] == "costs more than it gives"
    assert (slot.alpha, slot.alpha_at(2)) == (0.5, 0.375)
    assert slot.gate is not None
    slot.step(2)
    assert slot.end_epoch(51.0, OPEN) == []
    assert slot.seed is not None
    slot.step(6)
    assert slot.alpha == 0.0
    assert stages_of(slot.end_epoch(51.0, OPEN)) == ["EMBARGOED"]
    assert (slot.seed, slot.gate) == (None, None)
    with pytest.raises(LifecycleError, match="EMBARGOED"):
        slot.germinate("norm", "t")
    assert slot.end_epoch(51.0, OPEN) == []
    assert stages_of(slot.end_epoch(51.0, OPEN)) == ["RESETTING"]
    assert stages_of(slot.end_epoch(51.0, OPEN)) == ["DORMANT"]
    assert slot.state is None
    slot.germinate("norm", "t")
    assert slot.stage is SeedStage.GERMINATED


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_seed_that_blends_nothing_yet_leaves_at_once(slot, epochs):
    for _ in range(epochs):
        slot.end_epoch(50.0, OPEN)
    assert stages_of(slot.cull("unlucky")) == ["CULLED", "EMBARGOED"]
    assert slot.seed is None


def test_an_unhealthy_seed_is_culled_by_a_ramp(slot):
    slot.end_epoch(50.0, OPEN)
    slot.advance(OPEN)
    slot.step(2)
    slot.state.is_healthy = False
    assert stages_of(slot.end_epoch(50.0, OPEN)) == ["CULLED"]
    assert slot.alpha == 0.5


def test_a_refusing_gate_says_why_and_changes_nothing(slot):
    slot.end_epoch(50.0, OPEN)
    result = slot.advance(QualityGates())
    assert not result.passed
    assert "seed_not_ready_0_epochs" in result.checks_failed
    assert slot.stage is SeedStage.TRAINING


@pytest.mark.parametrize("stage", [SeedStage.GERMINATED, SeedStage.BLENDING, SeedStage.FOSSILIZED])
def test_a_controller_cannot_hurry_what_goes_by_itself(slot, stage):
    slot.state.stage = stage
    with pytest.raises(LifecycleError, match=f"cannot advance from {stage.name}"):
        slot.advance(OPEN)


def test_an_empty_slot_has_nothing_to_cull_or_count():
    slot = SeedSlot("mid", channels=4)
    with pytest.raises(LifecycleError, match="cannot cull in DORMANT"):
        slot.cull()
    assert slot.end_epoch(50.0, OPEN) == []
    slot.step()
    assert slot.alpha_at(3) == 0.0


def test_a_paused_seed_waits(slot):
    slot.state.is_paused = True
    assert slot.end_epoch(50.0, OPEN) == []
    assert slot.stage is SeedStage.GERMINATED
    slot.state.is_paused = False
    slot.end_epoch(50.0, OPEN)
    assert slot.stage is SeedStage.TRAINING


def test_training_unisolated_counts_as_violation_each_epoch(slot):
    slot.end_epoch(50.0, OPEN)
    slot.end_epoch(50.0, OPEN)
    assert slot.state.metrics.isolation_violations == 0
    slot.isolate_gradients = False
    slot.end_epoch(50.0, OPEN)
    slot.end_epoch(50.0, OPEN)
    assert slot.state.metrics.isolation_violations == 2
    assert "isolation_violations_2" in slot.advance(OPEN).checks_failed


@pytest.mark.parametrize(
    "bad",
    [
        *({name: value} for name in ("blending_steps", "cull_steps", "embargo_epochs") for value in (0, -1, 2.5, True)),
        *({"max_ratio": value} for value in (0.0, -1.0, float("nan"), float("inf"))),
        {"blending_steps": "many"},
        {"max_ratio": "wide"},
    ],
    ids=str,
)
def test_a_config_out_of_range_names_the_value(bad):
    (name, value), *_ = bad.items()
    with pytest.raises(ConfigError, match=f"{name}={str(value).lower()}"):
        SlotConfig(**bad)


@pytest.mark.parametrize("accuracy", ["x", None, float("nan"), float("inf"), True, [50.0], torch.tensor(50.0)], ids=str)
def test_an_epoch_ends_at_a_number_or_not_at_all(slot, accuracy):
    before = slot.state.to_dict()
    with pytest.raises(ConfigError, match=r"^val_accuracy=.*expected a number"):
        slot.end_epoch(accuracy, OPEN)
    assert slot.state.to_dict() == before
    with pytest.raises(ConfigError, match="val_accuracy"):
        SeedSlot("mid", channels=4).end_epoch(accuracy, OPEN)


@pytest.mark.parametrize("steps", [0, -1, 2.5, "many", True, None, float("nan")], ids=str)
def test_a_blend_takes_whole_steps(slot, steps):
    with pytest.raises(ConfigError, match=r"^total_steps=.*a whole number, 1 or more"):
        slot.start_blending(steps)
    assert slot.stage is SeedStage.GERMINATED


@pytest.mark.parametrize("stage", SeedStage)
def test_a_blend_begins_where_it_may_and_from_planting_by_way_of_training(slot, stage):
    slot.state.stage = stage
    if stage in (SeedStage.GERMINATED, SeedStage.TRAINING, SeedStage.BLENDING):
        slot.start_blending(4)
        assert slot.stage is SeedStage.BLENDING
        passed = [entered for entered, _ in slot.state.stage_history]
        assert (SeedStage.TRAINING in passed) == (stage is SeedStage.GERMINATED)
    else:
        with pytest.raises(LifecycleError, match=f"cannot go from {stage.name} to BLENDING"):
            slot.start_blending(4)

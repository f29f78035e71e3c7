"""Contracts, section kasmina: quality gates, and what counts as a violation of isolation."""

from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from esper.kasmina.blueprints.registry import BlueprintRegistry
from esper.kasmina.host import CNNHost
from esper.kasmina.slot import GateConfig, QualityGates, SeedSlot, SeedState
from esper.leyline import GateLevel, GateResult, SeedStage

CONF = Path(__file__).parents[2] / "conf" / "gates"


def trained(**metrics: float) -> SeedState:
    """A seed that every condition of G2 holds for, but for what is given."""
    state = SeedState(seed_id="s", blueprint_id="norm", slot_id="mid", stage=SeedStage.TRAINING)
    passing = {
        "improvement_since_stage_start": 2.0,
        "isolation_violations": 0,
        "epochs_in_current_stage": 5,
        "seed_gradient_norm_ratio": 0.05,
    }
    for name, value in (passing | metrics).items():
        setattr(state.metrics, name, value)
    return state


@pytest.mark.parametrize(
    ("stage", "target", "levels"),
    [
        (SeedStage.DORMANT, SeedStage.GERMINATED, {GateLevel.G0}),
        (SeedStage.GERMINATED, SeedStage.TRAINING, {GateLevel.G1}),
        (SeedStage.TRAINING, SeedStage.BLENDING, {GateLevel.G2}),
        (SeedStage.BLENDING, SeedStage.PROBATIONARY, {GateLevel.G3}),
        (SeedStage.PROBATIONARY, SeedStage.FOSSILIZED, {GateLevel.G4, GateLevel.G5}),
    ],
)
def test_every_step_of_a_life_has_its_gate(stage: SeedStage, target: SeedStage, levels: set[GateLevel]) -> None:
    state = SeedState(seed_id="s", blueprint_id="norm", stage=stage)
    result = QualityGates().check_gate(state, target)
    assert isinstance(result, GateResult) and result.gate in levels
    assert 0.0 <= result.score <= 1.0 and isinstance(result.message, str)
    for level in levels:
        assert getattr(QualityGates(), f"_check_{level.name.lower()}")(state).gate is level


def test_a_ready_seed_may_blend() -> None:
    result = QualityGates()._check_g2(trained())
    assert result.passed and result.checks_failed == []
    assert {"global_improvement_2.00%", "isolation_ok"} <= set(result.checks_passed)
    assert len(result.checks_passed) == 4
    assert result == QualityGates().check_gate(trained(), SeedStage.BLENDING)


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("improvement_since_stage_start", 0.0),
        ("isolation_violations", 1_000_000),
        ("epochs_in_current_stage", 0),
        ("seed_gradient_norm_ratio", 0.01),
    ],
)
def test_each_of_the_four_conditions_alone_keeps_a_seed_back(metric: str, value: float) -> None:
    result = QualityGates()._check_g2(trained(**{metric: value}))
    assert not result.passed and len(result.checks_failed) == 1 and len(result.checks_passed) == 3
    if metric == "seed_gradient_norm_ratio":
        assert result.checks_failed == ["seed_gradient_low_0.01"]


@pytest.mark.parametrize(
    ("points", "score"), [(-3.0, 0.0), (0.0, 0.0), (1.0, 0.2), (2.5, 0.5), (5.0, 1.0), (12.0, 1.0)]
)
def test_the_score_of_g2_is_a_fifth_a_point(points: float, score: float) -> None:
    assert QualityGates()._check_g2(trained(improvement_since_stage_start=points)).score == pytest.approx(score)


def test_thresholds_are_those_of_the_configuration() -> None:
    assert GateConfig(**yaml.safe_load((CONF / "default.yaml").read_text())) == QualityGates().config
    edge = trained(improvement_since_stage_start=0.5, epochs_in_current_stage=1)
    assert QualityGates()._check_g2(edge).passed  # at the threshold is enough
    strict = yaml.safe_load((CONF / "default.yaml").read_text()) | yaml.safe_load((CONF / "strict.yaml").read_text())
    strict.pop("defaults")
    assert not QualityGates(GateConfig(**strict))._check_g2(edge).passed


# ---- isolation, as the slot measures it


class Deaf(nn.Module):
    """A seed that cuts itself off from what comes in."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(dim, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x.detach() * (1 + self.scale)


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(BlueprintRegistry, "_specs", {"cnn": {}, "transformer": {}})
    BlueprintRegistry.register("deaf", "cnn", param_estimate=64)(lambda dim, **options: Deaf(dim))
    return "deaf"


def violations(slot: SeedSlot, epochs: int = 1) -> int:
    for _ in range(epochs):
        slot.end_epoch(50.0, QualityGates())
    return slot.state.metrics.isolation_violations


def test_an_isolated_seed_never_violates(slot: SeedSlot) -> None:
    slot.state.transition(SeedStage.TRAINING)
    assert violations(slot, 3) == 0


def test_every_epoch_in_which_gradient_leaks_upstream_counts(slot: SeedSlot) -> None:
    slot.state.transition(SeedStage.TRAINING)
    slot.isolate_gradients = False
    assert violations(slot, 2) == 2
    slot.isolate_gradients = True
    assert violations(slot, 2) == 2
    assert not QualityGates()._check_g2(slot.state).passed
    assert any("isolation" in check for check in QualityGates()._check_g2(slot.state).checks_failed)


def test_what_counts_is_gradient_that_arrives_and_not_a_switch(deaf: str) -> None:
    slot = SeedSlot("mid", channels=8, device="cpu")
    slot.germinate(deaf, "s", CNNHost())
    slot.state.transition(SeedStage.TRAINING)
    slot.isolate_gradients = False
    assert violations(slot, 2) == 0


def test_a_blending_seed_is_meant_to_reach_the_host(slot: SeedSlot) -> None:
    slot.start_blending(total_steps=10)
    assert violations(slot, 2) == 0


def test_looking_for_leaks_leaves_no_trace(slot: SeedSlot) -> None:
    slot.state.transition(SeedStage.TRAINING)
    slot.isolate_gradients = False
    before = {name: value.clone() for name, value in slot.state_dict().items() if isinstance(value, Tensor)}
    random_before = torch.get_rng_state()
    violations(slot)
    assert all(torch.equal(slot.state_dict()[name], value) for name, value in before.items())
    assert all(parameter.grad is None for parameter in slot.parameters())
    assert slot.training and all(module.training for module in slot.modules())
    assert torch.equal(torch.get_rng_state(), random_before)

import pytest

from esper.errors import LifecycleError
from esper.kasmina.slot import GateConfig, QualityGates, SeedState
from esper.leyline import GateLevel, SeedStage


def trained(**metrics) -> SeedState:
    """A seed that G2 lets pass, but for the metrics given."""
    state = SeedState(seed_id="s", blueprint_id="norm", stage=SeedStage.TRAINING)
    ready = {"improvement_since_stage_start": 2.0, "epochs_in_current_stage": 5, "seed_gradient_norm_ratio": 0.1}
    for name, value in (ready | metrics).items():
        setattr(state.metrics, name, value)
    return state


def test_a_stage_without_a_gate_says_which_have_one():
    with pytest.raises(LifecycleError, match="no gate guards CULLED: gates guard GERMINATED"):
        QualityGates().check_gate(trained(), SeedStage.CULLED)


def test_g0_and_g1_pass_a_healthy_seed():
    gates, state = QualityGates(), SeedState(seed_id="s", blueprint_id="norm")
    assert gates.check_gate(state, SeedStage.GERMINATED).passed
    assert gates._check_g1(state).checks_failed == ["not_planted_DORMANT"]
    state.stage = SeedStage.GERMINATED
    assert gates.check_gate(state, SeedStage.TRAINING).passed
    state.is_healthy = False
    assert gates.check_gate(state, SeedStage.TRAINING).checks_failed == ["unhealthy"]


@pytest.mark.parametrize(
    ("metrics", "failed"),
    [
        ({"improvement_since_stage_start": 0.4}, "global_improvement_low_0.40%"),
        ({"improvement_since_stage_start": float("nan")}, "global_improvement_low_nan%"),
        ({"isolation_violations": 1}, "isolation_violations_1"),
        ({"epochs_in_current_stage": 0}, "seed_not_ready_0_epochs"),
        ({"seed_gradient_norm_ratio": 0.01}, "seed_gradient_low_0.01"),
    ],
)
def test_g2_fails_by_each_condition_alone(metrics, failed):
    result = QualityGates().check_gate(trained(**metrics), SeedStage.BLENDING)
    assert not result.passed
    assert result.checks_failed == [failed]
    assert len(result.checks_passed) == 3


def test_g2_takes_its_thresholds_from_the_config():
    config = GateConfig(
        min_training_improvement=2.5, min_training_epochs=6, max_isolation_violations=2, min_gradient_ratio=0.2
    )
    result = QualityGates(config)._check_g2(trained(isolation_violations=2))
    assert result.checks_passed == ["isolation_ok"]
    assert len(result.checks_failed) == 3
    lenient = GateConfig(min_training_improvement=-100.0, min_training_epochs=0, min_gradient_ratio=0.0)
    state = trained(improvement_since_stage_start=-9.0, epochs_in_current_stage=0, seed_gradient_norm_ratio=0.0)
    assert QualityGates(lenient)._check_g2(state).passed


def test_g3_asks_for_a_whole_blend():
    gates, state = QualityGates(), trained()
    state.stage, state.alpha = SeedStage.BLENDING, 0.99
    assert gates.check_gate(state, SeedStage.PROBATIONARY).checks_failed == ["alpha_low_0.99"]
    state.alpha = 1.0
    assert gates.check_gate(state, SeedStage.PROBATIONARY).passed


@pytest.mark.parametrize(
    ("epochs", "contribution", "level", "failed"),
    [
        (0, 3.0, GateLevel.G4, ["probation_short_0_epochs"]),
        (1, None, GateLevel.G5, ["contribution_unknown"]),
        (1, 0.05, GateLevel.G5, ["contribution_low_0.05%"]),
        (1, -2.0, GateLevel.G5, ["contribution_low_-2.00%"]),
        (1, 3.0, GateLevel.G5, []),
    ],
)
def test_a_fossil_has_served_its_probation_and_is_worth_something(epochs, contribution, level, failed):
    state = trained(epochs_in_current_stage=epochs, counterfactual_contribution=contribution)
    state.stage = SeedStage.PROBATIONARY
    result = QualityGates().check_gate(state, SeedStage.FOSSILIZED)
    assert (result.gate, result.checks_failed, result.passed) == (level, failed, not failed)


def test_an_unhealthy_seed_becomes_no_fossil():
    state = trained(counterfactual_contribution=9.0)
    state.stage, state.is_healthy = SeedStage.PROBATIONARY, False
    assert QualityGates().check_gate(state, SeedStage.FOSSILIZED).checks_failed == ["unhealthy"]

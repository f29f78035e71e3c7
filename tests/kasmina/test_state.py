import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import LifecycleError
from esper.kasmina.slot import SeedMetrics, SeedState
from esper.leyline import VALID_TRANSITIONS, SeedStage
from esper.leyline import SeedMetrics as LeylineSeedMetrics

finite = st.floats(allow_nan=False, allow_infinity=False)


def test_positional_arguments_are_refused():
    with pytest.raises(TypeError, match="positional"):
        SeedState("s", "norm")


def test_there_are_no_fields_beside_the_declared_ones():
    state = SeedState(seed_id="s", blueprint_id="norm")
    with pytest.raises(AttributeError):
        state.nonsense = 1
    assert SeedMetrics is LeylineSeedMetrics


def test_a_new_state_is_dormant_and_its_telemetry_knows_the_seed():
    state = SeedState(seed_id="s", blueprint_id="anything", slot_id="mid")
    assert (state.stage, state.alpha, state.is_healthy, state.is_paused) == (SeedStage.DORMANT, 0.0, True, False)
    assert (state.telemetry.seed_id, state.telemetry.blueprint_id) == ("s", "anything")
    assert state.stage_entered_at.utcoffset() == timedelta(0)


@pytest.mark.parametrize("origin", SeedStage)
@pytest.mark.parametrize("target", SeedStage)
def test_transition_does_what_is_legal_and_refuses_the_rest_unchanged(origin, target):
    state = SeedState(seed_id="s", blueprint_id="norm", stage=origin)
    if target in VALID_TRANSITIONS[origin]:
        state.transition(target)
        assert (state.stage, state.previous_stage) == (target, origin)
        assert state.stage_history[-1] == (target, state.stage_entered_at)
    else:
        before = state.to_dict()
        with pytest.raises(LifecycleError, match=f"from {origin.name} to {target.name}"):
            state.transition(target)
        assert state.to_dict() == before


def test_a_transition_counts_epochs_and_improvement_anew():
    state = SeedState(seed_id="s", blueprint_id="norm", stage=SeedStage.GERMINATED)
    for accuracy in (50.0, 53.0):
        state.metrics.record_accuracy(accuracy)
    assert state.metrics.improvement_since_stage_start == 3.0
    state.transition(SeedStage.TRAINING)
    assert state.metrics.epochs_in_current_stage == 0
    state.metrics.record_accuracy(54.5)
    assert state.metrics.improvement_since_stage_start == 1.5
    assert (state.metrics.epochs_total, state.metrics.epochs_in_current_stage) == (3, 1)


def test_the_history_is_bounded():
    state = SeedState(seed_id="s", blueprint_id="norm")
    cycle = (SeedStage.GERMINATED, SeedStage.CULLED, SeedStage.EMBARGOED, SeedStage.RESETTING, SeedStage.DORMANT)
    for _ in range(50):
        for stage in cycle:
            state.transition(stage)
    assert len(state.stage_history) == state.stage_history.maxlen == 100


@pytest.mark.parametrize("move", [SeedState.transition, lambda state, stage: setattr(state, "stage", stage)])
def test_a_blend_that_is_over_is_whole_however_it_ended(move):
    state = SeedState(seed_id="s", blueprint_id="norm", stage=SeedStage.BLENDING, alpha=0.4)
    assert state.alpha_schedule is not None
    move(state, SeedStage.PROBATIONARY)
    assert state.alpha == 1.0
    assert state.alpha_schedule is None


def test_sync_telemetry_copies_the_gradient_figures_and_the_state():
    state = SeedState(seed_id="s", blueprint_id="norm", stage=SeedStage.BLENDING, alpha=0.25)
    state.metrics.current_val_accuracy = 71.0
    state.metrics.improvement_since_stage_start = 2.5
    state.metrics.epochs_in_current_stage = 4
    state.sync_telemetry(
        gradient_norm=1.5, gradient_health=0.9, has_vanishing=True, has_exploding=False, epoch=7, max_epochs=30
    )
    telemetry = state.telemetry
    assert (telemetry.gradient_norm, telemetry.gradient_health) == (1.5, 0.9)
    assert (telemetry.has_vanishing, telemetry.has_exploding) == (True, False)
    assert (telemetry.accuracy, telemetry.accuracy_delta, telemetry.epochs_in_stage) == (71.0, 2.5, 4)
    assert (telemetry.stage, telemetry.alpha, telemetry.epoch, telemetry.max_epochs) == (4, 0.25, 7, 30)


@given(
    stage=st.sampled_from(SeedStage),
    previous=st.sampled_from(SeedStage),
    alpha=finite,
    contribution=st.none() | finite,
    moments=st.lists(st.tuples(st.sampled_from(SeedStage), st.datetimes(timezones=st.just(UTC))), max_size=5),
    accuracies=st.lists(finite, max_size=4),
)
def test_to_dict_is_plain_and_round_trips_exactly(stage, previous, alpha, contribution, moments, accuracies):
    state = SeedState(
        seed_id="s", blueprint_id="norm", stage=stage, previous_stage=previous, alpha=alpha, ramp_step=3, ramp_start=0.5
    )
    state.stage_history.extend(moments)
    state.metrics.counterfactual_contribution = contribution
    for accuracy in accuracies:
        state.metrics.record_accuracy(accuracy)
    plain = state.to_dict()
    assert type(plain["stage"]) is int
    assert type(plain["stage_history"]) is list
    assert datetime.fromisoformat(plain["stage_entered_at"]) == state.stage_entered_at
    restored = SeedState.from_dict(json.loads(json.dumps(plain)))
    assert restored == state
    assert restored.stage_history.maxlen == state.stage_history.maxlen
    assert restored.to_dict() == plain


def test_the_ramp_down_starts_where_alpha_was():
    state = SeedState(seed_id="s", blueprint_id="norm", stage=SeedStage.TRAINING, ramp_steps=4)
    state.transition(SeedStage.BLENDING)
    state.step(2)
    half = state.alpha
    state.transition(SeedStage.CULLED)
    assert state.alpha == half
    assert [state.alpha_at(step) for step in range(6)] == pytest.approx(
        [half, half * 0.75, half * 0.5, half * 0.25, 0, 0]
    )
    assert state.alpha == half  # looking ahead moves nothing

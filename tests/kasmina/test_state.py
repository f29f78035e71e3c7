import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import LifecycleError
from esper.kasmina.slot import SeedState
from esper.leyline import VALID_TRANSITIONS, SeedStage

finite = st.floats(allow_nan=False, allow_infinity=False)


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

import math
from dataclasses import asdict, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.simic.episodes import TrainingSnapshot
from esper.simic.features import BASE_FEATURES, features_with_flags, obs_to_base_features

SNAPSHOT = TrainingSnapshot(
    epoch=3,
    global_step=120,
    train_loss=0.5,
    val_loss=0.6,
    loss_delta=-0.1,
    train_accuracy=80.0,
    val_accuracy=78.5,
    accuracy_delta=1.5,
    plateau_epochs=2,
    best_val_accuracy=79.0,
    best_val_loss=0.55,
    loss_history_5=(1.0, 0.9, 0.8, 0.7, 0.6),
    accuracy_history_5=(70.0, 72.0, 74.0, 76.0, 78.5),
    has_active_seed=True,
    seed_stage=4,
    seed_epochs_in_stage=6,
    seed_alpha=0.25,
    seed_improvement=2.5,
    available_slots=1,
)
FEATURES = [
    *(3.0, 120.0, 0.5, 0.6, -0.1, 80.0, 78.5, 1.5, 2.0, 79.0, 0.55),
    *(1.0, 0.9, 0.8, 0.7, 0.6, 70.0, 72.0, 74.0, 76.0, 78.5),
    *(1.0, 4.0, 6.0, 0.25, 2.5, 1.0),
]


def test_twenty_seven_features_in_order() -> None:
    found = obs_to_base_features(asdict(SNAPSHOT))
    assert found == FEATURES
    assert len(found) == len(BASE_FEATURES) == 27
    assert {type(value) for value in found} == {float}
    assert BASE_FEATURES[11] == "loss_history_5[0]"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300, None])
@pytest.mark.parametrize("name", ["val_loss", "best_val_loss", "seed_improvement"])
def test_what_is_not_finite_is_flagged(name: str, value: float | None) -> None:
    obs = asdict(SNAPSHOT) | {name: value}
    features, replaced = features_with_flags(obs)
    assert replaced == [name]
    assert features[BASE_FEATURES.index(name)] == 0.0
    with pytest.warns(UserWarning, match=name):
        assert obs_to_base_features(obs) == features


def test_what_is_not_finite_in_a_history_is_flagged_by_place() -> None:
    obs = asdict(SNAPSHOT) | {"loss_history_5": [1.0, math.nan, 1.0, math.inf, 1.0]}
    with pytest.warns(UserWarning, match=r"loss_history_5\[1\], loss_history_5\[3\]"):
        assert obs_to_base_features(obs)[11:16] == [1.0, 0.0, 1.0, 0.0, 1.0]


@given(values=st.lists(st.floats() | st.none(), min_size=27, max_size=27))
def test_features_are_always_finite(values: list[float | None]) -> None:
    left = iter(values)
    obs = {
        field.name: [next(left) for _ in range(5)] if "history" in field.name else next(left)
        for field in fields(TrainingSnapshot)
    }
    features, replaced = features_with_flags(obs)
    assert len(features) == 27
    assert all(map(math.isfinite, features))
    for name, given_value, feature in zip(BASE_FEATURES, values, features, strict=True):
        assert (feature == given_value) != (name in replaced)


def test_what_is_missing_is_named() -> None:
    obs = asdict(SNAPSHOT)
    del obs["seed_alpha"]
    with pytest.raises(ValueError, match="no 'seed_alpha'"):
        obs_to_base_features(obs)
    with pytest.raises(ValueError, match="'loss_history_5' has 2 values; expected 5"):
        obs_to_base_features(asdict(SNAPSHOT) | {"loss_history_5": [1.0, 2.0]})


def test_snapshots_take_keywords_only() -> None:
    with pytest.raises(TypeError, match="positional"):
        TrainingSnapshot(3)

import json

import pytest
import torch

from esper.errors import LearnerError
from esper.simic.on_policy.early_stopping import EarlyStopping


def watch(stopping: EarlyStopping, *scores: float) -> list[bool]:
    """Observe the scores in turn; each state holds the score's number."""
    return [
        stopping.observe(score, number, ({"w": torch.full((2,), float(number))}, {"number": number}))
        for number, score in enumerate(scores, start=1)
    ]


def test_patience_counts_scores_without_a_gain() -> None:
    stopping = EarlyStopping(patience=2)
    assert watch(stopping, 1.0, 0.5) == [True, False]
    assert not stopping.should_stop
    watch(stopping, 1.0)
    assert stopping.should_stop
    assert stopping.best_score == 1.0


def test_a_gain_resets_the_patience() -> None:
    stopping = EarlyStopping(patience=2)
    watch(stopping, 1.0, 0.5, 2.0, 0.5)
    assert not stopping.should_stop
    assert stopping.best_update == 3


def test_small_gains_are_kept_but_buy_no_patience_until_they_add_up() -> None:
    stopping = EarlyStopping(patience=3, threshold=0.25)
    assert watch(stopping, 1.0, 1.1, 1.2) == [True, True, True]
    assert stopping.best is not None and stopping.best[1] == {"number": 3}
    watch(stopping, 1.3)
    assert not stopping.should_stop
    watch(stopping, 1.31, 1.32, 1.33)
    assert stopping.should_stop


def test_no_patience_never_stops() -> None:
    stopping = EarlyStopping(patience=None)
    watch(stopping, 5.0, *[1.0] * 50)
    assert not stopping.should_stop
    assert stopping.best_score == 5.0


def test_the_best_is_a_copy() -> None:
    stopping = EarlyStopping(patience=1)
    weights, plain = torch.ones(3, requires_grad=True), {"names": ["a"]}
    stopping.observe(1.0, 1, ({"w": weights}, plain))
    with torch.no_grad():
        weights.mul_(7)
    plain["names"].append("b")
    assert stopping.best is not None
    tensors, kept = stopping.best
    assert tensors["w"].tolist() == [1.0, 1.0, 1.0]
    assert not tensors["w"].requires_grad
    assert kept == {"names": ["a"]}


def test_resumed_it_stops_when_it_would_have() -> None:
    straight, first = EarlyStopping(3, 0.1), EarlyStopping(3, 0.1)
    scores = (1.0, 1.05, 0.2)
    watch(straight, *scores)
    watch(first, *scores)
    tensors, plain = first.state()
    resumed = EarlyStopping(3, 0.1)
    resumed.load_state(tensors | {"other": torch.zeros(1)}, json.loads(json.dumps(plain)))
    for stopping in (straight, resumed):
        stopping.observe(1.0, 4, ({"w": torch.zeros(2)}, {}))
        assert stopping.should_stop
        assert stopping.best_score == 1.05
        assert stopping.best is not None
        assert stopping.best[0]["w"].tolist() == [2.0, 2.0]
        assert stopping.best[1] == {"number": 2}


def test_before_any_score_there_is_no_best() -> None:
    resumed = EarlyStopping(1)
    resumed.load_state(*EarlyStopping(1).state())
    assert resumed.best is None and resumed.best_score is None and not resumed.should_stop


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_scores_are_finite(score) -> None:
    with pytest.raises(LearnerError, match=f"validation score of update 4 is {score}"):
        EarlyStopping(1).observe(score, 4, ({}, {}))


@pytest.mark.parametrize("patience, threshold", [(0, 0.0), (1, -0.1), (1, float("nan"))])
def test_settings_that_make_no_sense(patience, threshold) -> None:
    with pytest.raises(LearnerError, match=f"patience={patience}"):
        EarlyStopping(patience, threshold)

import json
import math

import pytest

from esper.errors import FormatError
from esper.tamiyo import SignalTracker


def follow(report, accuracies, tracker=None, losses=None):
    tracker = tracker or SignalTracker(plateau_threshold=0.5, smoothing=0.5, history_length=3)
    for epoch, accuracy in enumerate(accuracies, start=1):
        tracker.update(report(epoch, accuracy=accuracy, loss=losses[epoch - 1] if losses else 100.0 - accuracy))
    return tracker.signals


def test_changes_best_values_and_histories(report):
    signals = follow(report, [10.0, 20.0, 18.0, 30.0])
    assert signals.accuracy_delta == 12.0 and signals.loss_delta == -12.0
    assert signals.best_val_accuracy == 30.0 and signals.best_val_loss == 70.0
    assert signals.accuracy_history == [20.0, 18.0, 30.0] and signals.loss_history == [80.0, 82.0, 70.0]
    assert signals.epoch == 4


def test_smoothed_improvement_is_an_exponential_mean(report):
    assert follow(report, [10.0, 14.0, 14.0, 12.0]).smoothed_improvement == pytest.approx(-0.5)  # 2, 1, -0.5


def test_plateau_counts_epochs_without_noticeable_progress(report):
    assert follow(report, [10.0, 20.0, 20.2, 19.0, 20.4]).plateau_epochs == 3
    assert follow(report, [10.0, 20.0, 20.2, 19.0, 20.6]).plateau_epochs == 0


def test_slow_steady_progress_is_no_plateau(report):
    signals = follow(report, [10.0 + 0.2 * epoch for epoch in range(30)])
    assert signals.plateau_epochs <= 2
    assert signals.best_val_accuracy == pytest.approx(15.8)


def test_figures_that_are_not_finite_count_as_an_epoch_without_progress(report):
    signals = follow(report, [10.0, math.nan, 10.2], losses=[1.0, math.inf, 0.9])
    assert signals.plateau_epochs == 2
    assert signals.accuracy_history == [10.0, 10.2]
    json.dumps([*signals.accuracy_history, signals.best_val_loss], allow_nan=False)


def test_continues_exactly_from_its_state(report):
    accuracies = [10.0, 15.0, 14.0, 15.2, 20.0, 20.1]
    whole = follow(report, accuracies)
    first = SignalTracker(0.5, 0.5, 3)
    follow(report, accuracies[:3], first)
    state = json.loads(json.dumps(first.state_dict(), allow_nan=False))
    follow(report, [99.0], first)  # the state taken is not touched by what comes after
    second = SignalTracker(0.5, 0.5, 3)
    second.load_state_dict(state)
    for epoch, accuracy in enumerate(accuracies[3:], start=4):
        second.update(report(epoch, accuracy=accuracy, loss=100.0 - accuracy))
    assert second.signals == whole


def test_histories_of_different_epochs_are_no_state(report):
    tracker = SignalTracker()
    tracker.update(report(1))
    for name in ("loss_history", "accuracy_history"):
        with pytest.raises(FormatError, match="of different epochs"):
            tracker.load_state_dict(tracker.state_dict() | {name: []})


def test_scores_below_zero_have_a_best_too(report):
    signals = follow(report, [-60.0, -20.0, -30.0])
    assert (signals.best_val_accuracy, signals.progress_accuracy, signals.accuracy_delta) == (-20.0, -20.0, -10.0)

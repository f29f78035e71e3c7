import math

from esper.leyline import SeedTelemetry
from esper.nissa import DiagnosticTracker
from esper.nissa.tracker import seeds_of_record


def follow(tracker: DiagnosticTracker, norms: list[float], seed: str = "s1", losses: list[float] | None = None) -> None:
    for epoch, norm in enumerate(norms):
        telemetry = SeedTelemetry(seed, "conv_light", "early", gradient_norm=norm, epoch=epoch)
        tracker.record(telemetry, loss=losses[epoch] if losses else None)


def test_a_healthy_seed_gives_nothing_to_say() -> None:
    tracker = DiagnosticTracker()
    follow(tracker, [0.5] * 20, losses=[2.0 - 0.05 * epoch for epoch in range(20)])
    assert tracker.diagnostics() == []


def test_pegged_clamp_is_told_with_its_length_and_the_true_norm() -> None:
    tracker = DiagnosticTracker(patience=3)
    follow(tracker, [1.0, 11.0, 12.0])
    assert tracker.diagnostics() == []
    follow(tracker, [13.5, 14.5])
    (sentence,) = tracker.diagnostics()
    assert "clamp (10) has been pegged for 4 epochs" in sentence
    assert "14.5" in sentence and "s1" in sentence and "conv_light" in sentence and "early" in sentence


def test_a_streak_that_broke_is_forgotten() -> None:
    tracker = DiagnosticTracker(patience=3)
    follow(tracker, [11.0] * 5 + [2.0])
    assert tracker.diagnostics() == []


def test_vanishing_by_norm_or_by_flag() -> None:
    tracker = DiagnosticTracker(patience=2)
    follow(tracker, [1e-9, 0.0])
    for _ in range(2):
        tracker.record(SeedTelemetry("s2", gradient_norm=1.0, has_vanishing=True))
    assert ["vanishing for 2 epochs" in sentence for sentence in tracker.diagnostics()] == [True, True]


def test_exploding_and_nan() -> None:
    tracker = DiagnosticTracker(patience=2)
    follow(tracker, [1e4, math.nan])
    assert any("exploding for 2 epochs" in sentence for sentence in tracker.diagnostics())


def test_loss_plateau_counts_from_the_best_epoch() -> None:
    tracker = DiagnosticTracker(plateau_epochs=4, plateau_delta=0.01)
    follow(tracker, [0.5] * 6, losses=[2.0, 1.5, 1.495, 1.6, 1.499, 1.493])
    (sentence,) = tracker.diagnostics()
    assert "has not improved by 0.01 for 4 epochs (best 1.5)" in sentence


def test_statistics_keep_the_whole_life_and_a_bounded_window() -> None:
    tracker = DiagnosticTracker(window=4)
    follow(tracker, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    (trace,) = tracker.traces.values()
    assert list(trace.gradient_norms) == [3.0, 4.0, 5.0, 6.0]
    assert (trace.epochs, trace.mean_gradient_norm, trace.norm_max) == (6, 3.5, 6.0)


def test_seeds_of_different_slots_are_kept_apart() -> None:
    tracker = DiagnosticTracker(patience=1)
    tracker.record(SeedTelemetry("s", layer_id="early", gradient_norm=500.0))
    tracker.record(SeedTelemetry("s", layer_id="late", gradient_norm=1.0))
    assert len(tracker.traces) == 2


def test_a_record_yields_its_learning_seeds_only() -> None:
    def slot(stage: str, seed: str = "s", norm: float | None = 0.3) -> dict[str, object]:
        return {"stage": stage, "stage_value": 3, "seed": seed, "gradient_norm": norm, "alpha": 0.2}

    slots = {
        "a": slot("TRAINING"),
        "b": slot("DORMANT", seed=""),
        "c": slot("FOSSILIZED", norm=0.0),
        "d": slot("BLENDING", norm=None),
        "e": slot("GERMINATED", norm=0.0),
    }
    record = {"epoch": 4, "members": [{"member": 2, "val_loss": 1.2, "val_accuracy": 61.0, "slots": slots}]}
    ((telemetry, loss),) = seeds_of_record(record)
    assert (telemetry.layer_id, telemetry.gradient_norm, telemetry.accuracy, loss) == ("member 2, a", 0.3, 61.0, 1.2)

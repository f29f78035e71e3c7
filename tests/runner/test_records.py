"""Records and summary, against numbers worked out by hand."""

import json
import math
from dataclasses import replace

import pytest

from esper.leyline import (
    R_SQUARED,
    SCORE_KINDS,
    EpochReport,
    SeedStage,
    SeedStateReport,
    TelemetryEvent,
    TelemetryEventType,
)
from esper.nissa.hub import finite
from esper.nissa.metric_names import EPOCH_METRICS, MEMBER_METRICS, SLOT_METRICS
from esper.runner.records import EpochTimes, checkpoint_metrics, count_seeds, epoch_record, summarize

TWIN_OF = {2: 0, 3: 1}


def report(member, val_accuracy=50.0, train_loss=1.0, parameters=1000):
    seed = SeedStateReport("early", SeedStage.BLENDING, "m0-early-e1", "conv_light", alpha=0.25, contribution=1.5)
    return EpochReport(
        member=member,
        epoch=3,
        max_epochs=9,
        train_loss=train_loss,
        train_accuracy=40.0,
        val_loss=1.1,
        val_accuracy=val_accuracy,
        best_val_accuracy=val_accuracy,
        parameter_count=parameters,
        flops_per_sample=2000,
        slots={"early": seed},
        is_twin=member in TWIN_OF,
    )


REPORTS = [report(0, 60.0, parameters=1200), report(1, 70.0, parameters=1300), report(2, 58.0), report(3, 64.0)]
TIMES = EpochTimes(wall_s=2.0, train_s=1.0, validation_s=0.5, counterfactual_s=0.25, samples=400, members=4)


def test_a_record_holds_every_name_of_the_glossary_and_no_other():
    classes, numbers = (epoch_record(REPORTS, TIMES, TWIN_OF, kind) for kind in SCORE_KINDS)
    for record, others in (
        (classes, {"train_r2", "val_r2", "val_rmse"}),
        (numbers, {"train_accuracy", "val_accuracy"}),
    ):
        assert set(record) == set(EPOCH_METRICS)
        assert all(set(row) == set(MEMBER_METRICS) - others for row in record["members"])
        assert all(set(slot) == set(SLOT_METRICS) for row in record["members"] for slot in row["slots"].values())


def test_a_regression_is_told_by_its_own_names():
    reports = [replace(report, val_rmse=2.5) for report in REPORTS]
    row = epoch_record(reports, TIMES, TWIN_OF, R_SQUARED)["members"][0]
    assert (row["train_r2"], row["val_r2"], row["val_rmse"]) == (40.0, 60.0, 2.5)
    assert checkpoint_metrics(reports, R_SQUARED) == {"val_r2": 65.0, "val_loss": pytest.approx(1.1)}
    summary = summarize(reports, {"test_r2": [61.0, 71.0, 57.0, 65.0]}, TWIN_OF, {}, 1.0, R_SQUARED)
    assert summary["grown"].keys() == {
        "test_r2",
        "val_r2",
        "parameters",
        "flops_per_sample",
        "training_flops",
    }
    assert summary["difference"]["test_r2"]["mean"] == summary["difference"]["val_r2"]["mean"] + 1.0 == 5.0


def test_a_record_says_who_is_whose_twin_and_how_fast_it_went():
    record = epoch_record(REPORTS, TIMES, TWIN_OF)
    assert [row["twin_of"] for row in record["members"]] == [None, None, 0, 1]
    assert (record["epoch"], record["samples_per_s"], record["host_epochs_per_s"]) == (3, 400.0, 2.0)
    assert record["members"][0]["slots"]["early"]["stage"] == "BLENDING"
    assert record["members"][0]["slots"]["early"]["stage_value"] == 4


def test_an_epoch_without_training_has_no_speed():
    times = EpochTimes(wall_s=0.1, train_s=0.0, validation_s=0.1, counterfactual_s=0.0, samples=0, members=4)
    record = epoch_record(REPORTS, times, TWIN_OF)
    assert record["samples_per_s"] is None
    assert record["host_epochs_per_s"] is None


def test_a_record_with_a_nan_becomes_strict_json():
    record = finite(epoch_record([report(0, train_loss=math.nan)], TIMES, {}))
    assert json.loads(json.dumps(record, allow_nan=False))["members"][0]["train_loss"] is None


def test_seeds_are_counted_on_top_of_what_was_counted():
    kinds = [TelemetryEventType.GERMINATED, TelemetryEventType.GERMINATED, TelemetryEventType.CULLED]
    events = [TelemetryEvent(kind) for kind in [*kinds, TelemetryEventType.CHECKPOINT_SAVED]]
    assert count_seeds(events, {}) == {"planted": 2, "culled": 1, "fossilized": 0}
    assert count_seeds(events, {"planted": 5, "culled": 0, "fossilized": 1}) == {
        "planted": 7,
        "culled": 1,
        "fossilized": 1,
    }


def test_the_summary_pairs_each_member_with_its_own_twin():
    # The twins stand in another order than their members: 3 is the twin of 0.
    summary = summarize(
        REPORTS,
        {"test_accuracy": [61.0, 75.0, 70.0, 59.0], "test_bits_per_byte": [2.0, 2.5, 2.1, 2.2]},
        {2: 1, 3: 0},
        {"planted": 2},
        12.5,
    )
    assert summary["grown"]["test_accuracy"] == [61.0, 75.0]
    assert summary["twin"]["test_accuracy"] == [59.0, 70.0]
    assert summary["grown"]["parameters"] == [1200, 1300]
    assert summary["difference"]["test_bits_per_byte"]["mean"] == pytest.approx(0.1)
    difference = summary["difference"]["test_accuracy"]
    assert difference == {"mean": 3.5, "low": None, "high": None, "n": 2}  # of 2 and 5
    assert summary["seeds"] == {"planted": 2}
    assert summary["wall_s"] == 12.5


def test_the_summary_counts_those_that_diverged():
    reports = [replace(REPORTS[0], retired=True), replace(REPORTS[1], rollbacks=1), *REPORTS[2:]]
    counted = summarize(reports, {"test_accuracy": [0.0] * 4}, {2: 1, 3: 0}, {}, 1.0)["retired"]
    assert counted == {"grown": 1, "twin": 0}
    reports = [replace(report, rollbacks=report.epoch) for report in REPORTS]  # put back after every epoch
    counted = summarize(reports, {"test_accuracy": [0.0] * 4}, {2: 1, 3: 0}, {}, 1.0)["retired"]
    assert counted == {"grown": 2, "twin": 2}


def test_without_twins_there_is_no_difference():
    summary = summarize(REPORTS[:2], {"test_accuracy": [61.0, math.nan]}, {}, {}, 1.0)
    assert summary["twin"] is None
    assert summary["difference"] is None
    assert summary["grown"]["test_accuracy"] == [61.0, None]


def test_checkpoints_are_ranked_by_the_grown_members_that_were_measured():
    assert checkpoint_metrics(REPORTS) == {"val_accuracy": 65.0, "val_loss": pytest.approx(1.1)}
    assert checkpoint_metrics([report(0, math.nan), report(1, 40.0), report(2, 99.0)])["val_accuracy"] == 40.0
    assert checkpoint_metrics([report(0, math.inf)])["val_accuracy"] is None

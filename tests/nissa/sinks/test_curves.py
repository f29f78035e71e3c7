import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from esper.nissa.metric_names import CURVES, EPOCH_METRICS, LEARNING_METRICS, MEMBER_METRICS, OUTCOMES, SLOT_METRICS
from esper.nissa.sinks.curves import epoch_curves, outcome, update_curves


def slot(stage: str = "DORMANT", seed: str = "", **values: float | None) -> dict[str, Any]:
    return {"stage": stage, "seed": seed, **values}


def member(number: int, twin_of: int | None = None, accuracy: float | None = 50.0, **slots: Any) -> dict[str, Any]:
    scores = {name: 1.0 for name in MEMBER_METRICS if name in CURVES["grown"]} | {"val_accuracy": accuracy}
    return scores | {"member": number, "is_twin": twin_of is not None, "twin_of": twin_of, "slots": slots}


def record(*members: dict[str, Any]) -> dict[str, Any]:
    return dict.fromkeys(EPOCH_METRICS, 2.0) | {"epoch": 3, "samples_per_s": None, "members": list(members)}


def test_many_members_are_one_number_a_name() -> None:
    curves = epoch_curves(
        record(member(0, accuracy=60.0), member(1, accuracy=70.0), member(2, 0, 50.0), member(3, 1, 66.0))
    )
    assert (curves["grown/val_accuracy"], curves["twin/val_accuracy"]) == (65.0, 58.0)
    assert curves["difference/val_accuracy"] == 7.0  # of pairs: 10 and 4
    assert curves["time/wall_s"] == 2.0


def test_how_far_members_lie_apart_is_their_standard_deviation() -> None:
    curves = epoch_curves(
        record(member(0, accuracy=60.0), member(1, accuracy=70.0), member(2, 0, 50.0), member(3, 1, 66.0))
    )
    spreads = [curves[f"{group}_spread/val_accuracy"] for group in ("grown", "twin", "difference")]
    assert spreads == pytest.approx([10 / 2**0.5, 16 / 2**0.5, 6 / 2**0.5])
    single = epoch_curves(record(member(0), member(1, accuracy=None)))
    assert not [name for name in single if "spread/val_accuracy" in name]


def test_what_was_not_measured_is_no_point_and_spoils_no_mean() -> None:
    curves = epoch_curves(record(member(0, accuracy=None), member(1, accuracy=70.0), member(2, 0), member(3, 1, 60.0)))
    assert curves["grown/val_accuracy"] == 70.0
    assert curves["difference/val_accuracy"] == 10.0
    assert "time/samples_per_s" not in curves
    assert not [name for name in curves if name.startswith("seeds/")], "there are no seeds"
    assert "twin/val_loss" not in epoch_curves(record(member(0)))


def test_seeds_are_those_of_grown_members_and_stages_are_counted_over_all_their_slots() -> None:
    twin = member(2, 0, early=slot(), mid=slot())
    curves = epoch_curves(
        record(
            member(0, early=slot("BLENDING", "a", alpha=0.25, contribution=None), mid=slot()),
            member(
                1, early=slot("FOSSILIZED", "b", alpha=1.0, contribution=3.0), mid=slot("BLENDING", "c", alpha=0.25)
            ),
            twin,
        )
    )
    assert (curves["seeds/alpha"], curves["seeds/contribution"]) == (0.5, 3.0)
    stages = {name: count for name, count in curves.items() if name.startswith("stages/")}
    assert stages.pop("stages/BLENDING") == 2 and stages.pop("stages/FOSSILIZED") == 1
    assert stages.pop("stages/DORMANT") == 1 and set(stages.values()) == {0}, "a stage nobody is in is drawn at zero"


def test_updates_keep_their_names() -> None:
    drawn = update_curves({"schema": 1, "update": 4, "wall_s": 1.0, "entropy": 0.5, "return_mean": None})
    assert drawn == {"learning/wall_s": 1.0, "learning/entropy": 0.5}


def test_every_curve_is_a_metric_of_the_glossary() -> None:
    known = {"seeds": SLOT_METRICS, "time": EPOCH_METRICS, "learning": LEARNING_METRICS}
    for group in (group for group in CURVES if group != "stages"):
        assert set(CURVES[group]) <= set(known.get(group, MEMBER_METRICS)), group


def test_a_recorded_run_draws_only_named_curves(make_run: Callable[..., Path]) -> None:
    run_dir = make_run(members=4, epochs=20)
    names = {f"{group}/{name}" for group, names in (*CURVES.items(), *OUTCOMES.items()) for name in names}
    drawn = [epoch_curves(json.loads(line)) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert {name for curves in drawn for name in curves} <= names
    assert "seeds/contribution" in drawn[-1] and outcome(run_dir).keys() <= names


def test_the_outcome_is_the_summary_in_means(make_run: Callable[..., Path]) -> None:
    run_dir = make_run(members=2)
    run = json.loads((run_dir / "run.json").read_text())
    numbers = outcome(run_dir)
    assert numbers["grown/test_accuracy"] == pytest.approx(sum(run["summary"]["grown"]["test_accuracy"]) / 2)
    assert numbers["seeds/planted"] == run["summary"]["seeds"]["planted"]
    assert "grown/test_bits_per_byte" not in numbers
    (run_dir / "run.json").write_text(json.dumps(run | {"summary": None}))
    assert outcome(run_dir) == {}, "it has not finished"

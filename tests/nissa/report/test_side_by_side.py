"""No gain is shown without what it is over, and what either took."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from esper.nissa import write_report
from esper.nissa.report.side_by_side import notes, side_by_side
from esper.nissa.sinks.curves import outcome

SUMMARY: dict[str, Any] = {
    "grown": {"test_accuracy": [80.0, 82.0, 84.0], "val_accuracy": [81.0] * 3, "parameters": [2000] * 3},
    "twin": {"test_accuracy": [70.0, 71.0, 72.0], "val_accuracy": [71.0] * 3, "parameters": [1000] * 3},
    "final": {"test_accuracy": [81.0, 83.0, 85.0], "val_accuracy": [82.0] * 3, "parameters": [2000] * 3},
    "final_epochs": None,
    "never_grew": 1,
    "difference": {},
    "final_difference": {"test_accuracy": {"mean": -1.0}},
}
FLOPS = {"grown": [4e12, 4.1e12, 4.2e12], "twin": [2e12, 2.1e12, 2e12], "final": [4e12, 4.2e12, 4.2e12]}
for group, flops in FLOPS.items():
    SUMMARY[group]["training_flops"] = flops


def test_every_control_has_its_figures_and_the_difference_to_it():
    titles, rows = side_by_side(SUMMARY)
    assert titles == ["", "test accuracy", "validation accuracy", "parameters", "train FLOPs"]
    assert [(row.group, row.is_difference) for row in rows] == [
        ("grown", False),
        ("twin", False),
        ("twin", True),
        ("final", False),
        ("final", True),
    ]
    assert rows[0].cells == ["82.0% [77.0, 87.0]", "81.0% [81.0, 81.0]", "2,000", "4.1T"]
    assert rows[2].cells == ["+11.0 [+8.5, +13.5]", "+10.0 [+10.0, +10.0]", "x 2.00", "x 2.02"]
    assert rows[4].cells[0] == "-1.0 [-1.0, -1.0]" and rows[4].cells[2:] == ["x 1.00", "x 0.99"]


@pytest.mark.parametrize(
    ("changes", "said", "unsaid"),
    [
        ({}, ["pair by pair", "from scratch for the same FLOPs", "1 of 3 never grew"], ["as many epochs"]),
        ({"final": None, "never_grew": 0}, ["pair by pair"], ["from scratch", "never grew"]),
        ({"final_epochs": SUMMARY["final"]}, ["as many epochs"], []),
    ],
)
def test_what_the_controls_are_is_said_of_those_there_are(changes, said, unsaid):
    text = " ".join(notes(SUMMARY | changes))
    assert all(part in text for part in said) and not any(part in text for part in unsaid)


def test_a_run_of_before_has_no_training_flops():
    old = {name: {k: v for k, v in SUMMARY[name].items() if k != "training_flops"} for name in ("grown", "twin")}
    assert [row.cells[-1] for row in side_by_side(old)[1]] == ["-"] * 3


def test_the_report_and_dashboards_have_the_final_networks(make_run: Callable[..., Path]):
    run_dir = make_run(members=3)
    run = json.loads((run_dir / "run.json").read_text())
    plain = write_report(run_dir).read_text()
    assert "final networks" not in plain and "Side by side" in plain
    grown = run["summary"]["grown"]["test_accuracy"]
    run["summary"] |= {
        "final": SUMMARY["final"] | {"test_accuracy": [value + 2.5 for value in grown]},
        "final_difference": {"test_accuracy": {"mean": -2.5, "low": -2.5, "high": -2.5, "n": 3}},
    }
    (run_dir / "run.json").write_text(json.dumps(run))
    page = write_report(run_dir).read_text()
    assert "final networks, from scratch" in page and "\N{MINUS SIGN}2.5<small> points" in page
    assert "not what growing gained" in page, "a seed's worth is labelled as what it is"
    numbers = outcome(run_dir)
    assert numbers["final/training_flops"] == pytest.approx(12.4e12 / 3) and numbers["final/parameters"] == 2000
    assert numbers["final_difference/test_accuracy"] == -2.5

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from esper.nissa import print_summary


def printed(run_dir: Path, width: int = 80, **changes: Any) -> str:
    summary = json.loads((run_dir / "run.json").read_text())["summary"] | changes
    out = io.StringIO()
    print_summary(summary, run_dir, run_dir / "report.html", Console(file=out, width=width, highlight=False))
    return out.getvalue()


def test_summary_says_what_was_gained_and_what_became_of_the_seeds(make_run: Callable[..., Path]) -> None:
    run_dir = make_run()
    grown = {"test_accuracy": [71.0, 72.0, 73.0], "val_accuracy": [70.0, 72.0, 74.0], "parameters": [1000, 1200, 1400]}
    twin = {"test_accuracy": [69.0, 69.0, 69.0], "val_accuracy": [70.0, 70.0, 70.0], "parameters": [1000] * 3}
    text = printed(run_dir, grown=grown, twin=twin)
    lines = text.splitlines()
    (mine,) = [line for line in lines if line.startswith("grown")]
    assert "72.0% [69.5, 74.5]" in mine and "1,200" in mine
    (difference,) = [line for line in lines if line.startswith("difference")]
    assert "+3.0 [+0.5, +5.5]" in difference and "x 1.20" in difference
    assert "3 members" in text and "95% t-intervals" in text
    planted = sum(json.loads(line)["type"] == "germinated" for line in (run_dir / "events.jsonl").open())
    (total,) = [line for line in lines if line.startswith("all ")]
    assert int(total.split()[1]) == planted
    assert [line.split()[0] for line in lines if line.startswith(("early", "mid", "late"))] == sorted(
        (line.split()[0] for line in lines if line.startswith(("early", "mid", "late"))),
        key=["early", "mid", "late"].index,
    )
    assert "planted: validation accuracy has not moved" in text
    assert "culled: contribution" in text and "fossilised: contribution" in text and " alike)" in text
    assert f"report  {run_dir / 'report.html'}" in text, "the path is not wrapped"
    assert max(len(line) for line in lines if "[" in line) <= 80


def test_a_regression_is_told_by_r_squared_and_error(make_run: Callable[..., Path]) -> None:
    grown = {
        "test_r2": [71.0, 72.0, 73.0],
        "test_rmse": [1.5, 1.6, 1.7],
        "val_r2": [-3.0] * 3,
        "parameters": [1000] * 3,
    }
    text = printed(make_run(), width=120, grown=grown, twin=None)
    assert "test R-squared" in text and "72.0% [69.5, 74.5]" in text and "1.600 [1.352, 1.848]" in text
    assert "validation R-squared" in text and "-3.0% [-3.0, -3.0]" in text and "test accuracy" not in text


def test_one_member_gets_no_interval(make_run: Callable[..., Path]) -> None:
    text = printed(make_run(members=1, rollback=None), width=120)
    assert "no interval" in text and "engine.members=8" in text and "[" not in text


def test_a_run_that_grew_nothing_beside_nothing(make_run: Callable[..., Path]) -> None:
    text = printed(make_run(members=2, twins=False, events=False))
    assert "grown" in text and "twin" not in text and "difference" not in text
    assert "no seed was planted" in text


def test_brackets_in_a_path_are_no_markup(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    run_dir = make_run(members=1, epochs=2, rollback=None)
    odd = run_dir.rename(tmp_path / "[red]odd")
    assert str(odd / "report.html") in printed(odd)


def test_members_that_diverged_are_counted(make_run: Callable[..., Path]) -> None:
    run_dir = make_run(members=3)
    text = printed(run_dir, width=160, retired={"grown": 1, "twin": 2})
    assert "1 of 3 grown members and 2 of 3 twins diverged and were retired; a smaller optimizer.learning_rate" in text
    assert "2 of 3 twins diverged" in printed(run_dir, width=160, retired={"grown": 0, "twin": 2})
    for nobody in ({}, {"retired": {"grown": 0, "twin": 0}}):
        assert "diverged and" not in printed(run_dir, width=160, **nobody)

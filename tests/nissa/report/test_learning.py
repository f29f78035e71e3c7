"""What is kept and shown of a policy that learns."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from esper.nissa import JsonlSink, RunTitle, cut_back, write_report
from esper.nissa.report.history import read_run
from esper.nissa.sinks.console import PlainConsole
from esper.nissa.sinks.live import LiveConsole

TITLE = RunTitle("digits", "ppo", "cnn", max_epochs=25, max_updates=40)


def update(number: int, **values: Any) -> dict[str, Any]:
    return {
        "schema": 1, "update": number, "wall_s": 2.0, "episodes": 32 * number, "episodes_finished": 32,
        "return_mean": 0.1 * number, "return_std": 0.3, "entropy": 2.0 - 0.01 * number, "approx_kl": 0.01,
        "validation_return": 0.1 * number + 0.05 if number % 5 == 0 else None, **values,
    }  # fmt: skip


def test_updates_have_a_file_of_their_own_that_comes_with_the_first(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path)
    assert not (tmp_path / "learning.jsonl").exists()
    sink.update(update(1))
    sink.close("finished")
    assert json.loads((tmp_path / "learning.jsonl").read_text())["update"] == 1
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_cut_back_keeps_the_updates_that_the_checkpoint_knows(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path)
    for number in (1, 2, 3):
        sink.update(update(number))
    sink.epoch({"epoch": 0})
    cut_back(tmp_path, learning=2)
    assert [record["update"] for record in read_run(tmp_path).updates] == [1, 2]
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_plain_is_one_line_an_update_with_the_time_left() -> None:
    out = io.StringIO()
    console = PlainConsole(TITLE, out)
    console.update(update(9))
    console.update(update(10))
    console.epoch({"epoch": 0, "wall_s": 9.0, "members": []})
    console.epoch({"epoch": 1, "wall_s": 1.0, "members": []})
    nine, ten, untrained, first = out.getvalue().splitlines()[1:]
    assert nine.startswith("update  9/40  288 episodes  return +0.900  entropy 1.91") and "validation" not in nine
    assert "validation +1.050" in ten and ten.endswith("1:00 left")
    assert "left" not in untrained and first.endswith("0:24 left"), "updates say nothing of the epochs' time"


def test_returns_are_told_in_points_beside_the_references() -> None:
    out = io.StringIO()
    console = PlainConsole(RunTitle("digits", "ppo", "cnn", 25, 40, "points of accuracy"), out)
    console.update(update(5, return_mean=0.8123, heuristic_return=0.84, static_return=0.8))
    console.update(update(6, return_mean=0.8123))
    first, second = out.getvalue().splitlines()[1:]
    assert "  return 81.2 points of accuracy (heuristic 84.0, static host 80.0)  validation 55.0  " in first
    assert "  return 81.2 points of accuracy  entropy" in second
    plain = io.StringIO()
    PlainConsole(TITLE, plain).update(update(5, return_mean=0.8123, heuristic_return=0.84, static_return=0.8))
    assert "  return +0.812 (heuristic +0.840, static host +0.800)  " in plain.getvalue()


def test_the_live_view_shows_updates_first_and_epochs_after() -> None:
    out = io.StringIO()
    view = LiveConsole(TITLE, out, Console(file=out, force_terminal=True, width=100))
    view.update(update(40))
    view.epoch({"epoch": 0, "wall_s": 1.0, "members": [{"member": 0, "val_accuracy": 9.0, "slots": {}}]})
    view.close("finished")
    assert "40/40" in out.getvalue() and "return +4.000" in out.getvalue() and "0/25" in out.getvalue()


def test_the_report_tells_how_the_policy_learned(make_run: Callable[..., Path]) -> None:
    run_dir = make_run(members=2, epochs=12)
    assert "How the policy learned" not in write_report(run_dir).read_text()
    lines = [json.dumps(update(number)) for number in range(1, 21)]
    (run_dir / "learning.jsonl").write_text("\n".join(lines))
    page = write_report(run_dir).read_text()
    assert "How the policy learned" in page and page.index("How the policy learned") < page.index("<h2>Accuracy")
    assert "Mean return over the updates" in page and "variance explained" not in page, "only what was measured"


def test_the_learning_curve_has_the_references_as_level_lines(make_run: Callable[..., Path]) -> None:
    run_dir = make_run(members=2, epochs=4)
    for unit, height, words in (("points of accuracy", "65", "heuristic 84.0"), ("", "0.65", "heuristic +0.840")):
        record = json.loads((run_dir / "run.json").read_text()) | ({"return_unit": unit} if unit else {})
        record = {key: value for key, value in record.items() if unit or key != "return_unit"}
        (run_dir / "run.json").write_text(json.dumps(record))
        known = {"return_mean": 0.7, "return_std": 0.01, "validation_return": None, "static_return": 0.61}
        lines = [json.dumps(update(number, **known, heuristic_return=0.84)) for number in range(1, 5)]
        (run_dir / "learning.jsonl").write_text("\n".join(lines))
        page = write_report(run_dir).read_text()
        assert f">{words}<" in page and f">{height}" in page and "Level lines are" in page
        assert (f">return of an episode, {unit}<" if unit else ">return of an episode<") in page


def test_a_run_that_has_only_updates_so_far_has_a_report(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path)
    for number in (1, 2, 3):
        sink.update(update(number))
    page = write_report(tmp_path).read_text()
    assert "How the policy learned" in page and "<h2>Accuracy" not in page


def test_what_was_asked_for_is_a_picture(make_run: Callable[..., Path]) -> None:
    run_dir = make_run(members=2, epochs=4)
    assert "What was asked for" not in write_report(run_dir).read_text()
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        for row in record["members"]:
            plant = record["epoch"] == 2 and not row["is_twin"]
            row["action"] = {"operation": "GERMINATE" if plant else "WAIT", "blueprint": "conv_light" if plant else ""}
    (run_dir / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)))
    page = write_report(run_dir).read_text()
    assert "What was asked for" in page and "plant conv_light" in page

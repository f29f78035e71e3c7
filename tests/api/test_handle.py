"""Runs as objects: what a handle says is what the folder holds."""

import builtins
import json
import os
import shutil
import warnings
from pathlib import Path

import pandas
import pytest
import torch

import esper
from esper.api.handle import RunHandle
from esper.errors import CheckpointError, ConfigError, EsperError, RunError
from tests.study.run_folders import make_run


def test_it_says_what_the_folder_holds(run: RunHandle) -> None:
    record = json.loads((run.folder / "run.json").read_text())
    assert run.status == "finished"
    assert run.summary == record["summary"]
    assert len(run.summary["grown"]["test_accuracy"]) == 2
    assert run.config.policy.name == run.config["policy"]["name"] == "random"
    with pytest.raises(Exception, match="read-only"):
        run.config.epochs = 4
    assert run.report() == run.folder / "report.html"
    assert run.report().read_text().startswith("<!doctype html>")


def test_metrics_have_a_row_a_member_and_epoch(run: RunHandle) -> None:
    table = run.metrics()
    assert len(table) == 4 * (2 + 2)
    assert list(zip(table.epoch, table.member, strict=True)) == [(e, m) for e in range(4) for m in range(4)]
    last = table[table.epoch == 3]
    assert last[~last.is_twin].val_accuracy.tolist() == run.summary["grown"]["val_accuracy"]
    assert {"slots.early.stage", "slots.late.alpha", "action.operation", "wall_s"} <= set(table.columns)


def test_events_have_a_row_each(run: RunHandle) -> None:
    table = run.events()
    lines = (run.folder / "events.jsonl").read_text().splitlines()
    assert table.type.tolist() == [json.loads(line)["type"] for line in lines]
    assert (table.type == "germinated").sum() == run.summary["seeds"]["planted"] > 0
    assert isinstance(table, pandas.DataFrame) and "data.blueprint" in table


def test_a_member_is_a_plain_module_ready_to_predict(run: RunHandle) -> None:
    member = run.member(1)
    assert isinstance(member, torch.nn.Module) and not member.training
    assert member(torch.zeros(3, 1, 8, 8)).shape == (3, 10)
    assert len({number: run.member(number) for number in range(4)}) == 4
    with pytest.raises(RunError, match="there is no member 4; it has 0 to 3"):
        run.member(4)


def test_it_shows_itself(run: RunHandle, tmp_path: Path) -> None:
    assert repr(run).startswith(
        f"<run {run.folder}: status finished, task digits, host cnn, policy random, epoch 3 of 3"
    )
    odd = make_run(tmp_path / "a&b", policy="<b>")
    assert "&lt;b&gt;" in RunHandle(odd)._repr_html_() and "<b>" not in RunHandle(odd)._repr_html_()
    assert "a&amp;b" in RunHandle(odd)._repr_html_()


def test_a_run_that_is_not_finished_has_no_summary(tmp_path: Path) -> None:
    killed = RunHandle(make_run(tmp_path / "a", status="running"))
    assert killed.status == "killed"
    assert killed.summary == {}


def test_without_lines_or_pandas_it_says_what_mends_it(run: RunHandle, tmp_path: Path, monkeypatch) -> None:
    folder = make_run(tmp_path / "a")
    (folder / "metrics.jsonl").unlink(missing_ok=True)
    with pytest.raises(RunError, match=r"telemetry\.jsonl=true"):
        RunHandle(folder).metrics()
    found = builtins.__import__

    def without_pandas(name: str, *others: object, **named: object) -> object:
        if name == "pandas":
            raise ImportError(name)
        return found(name, *others, **named)

    monkeypatch.setattr(builtins, "__import__", without_pandas)
    with pytest.raises(EsperError, match=r"pip install 'esper\[pandas\]'"):
        run.metrics()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed in range(3):
        make_run(tmp_path / f"digits/run{seed}", seed=seed, age_s=seed, policy="ppo" if seed else "iql")
    make_run(tmp_path / "digits/bad", status="failed", age_s=9)
    return tmp_path


FILTERS = [
    ((), None, ["run0", "run1", "run2", "bad"]),
    ("status=finished", None, ["run0", "run1", "run2"]),
    (["policy=ppo", "seed>1"], None, ["run2"]),
    ((), "seed", ["run2", "run1", "run0", "bad"]),
]


@pytest.mark.parametrize(("conditions", "sort", "names"), FILTERS)
def test_runs_are_filtered_and_sorted_as_on_the_command_line(root: Path, conditions, sort, names) -> None:
    found = [run.folder.name for run in esper.runs(filter=conditions, sort=sort, root=root)]
    assert found[: len(names)] == names if sort is None else set(found) == set(names) and found[:2] == names[:2]
    assert [run.folder.name for run in esper.runs(filter=conditions, sort=sort, limit=1, root=root)] == found[:1]


def test_a_run_is_opened_by_part_of_its_path(root: Path, run: RunHandle) -> None:
    assert esper.open_run("run1", root=root).folder == root / "digits" / "run1"
    assert esper.open_run(run.folder) == run
    for wrong, message in (
        ("run", "3 runs"),
        ("rnu1", "did you mean"),
        ("", "an empty name"),
        (None, "open_run: expected"),
        ("a\0b", "open_run: expected"),
    ):
        with pytest.raises(RunError, match=message):
            esper.open_run(wrong, root=root)
    with pytest.raises(ConfigError, match="finishd; did you mean finished"):
        esper.runs(filter="status=finishd", root=root)
    with pytest.raises(RunError, match="there is no such folder"):
        esper.runs(root=root / "none")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"filter": 3}, "filter=3: expected conditions"),
        ({"filter": ["status=finished", 3]}, r"filter=\[status=finished,3\]: expected conditions"),
        ({"filter": None}, "filter=null: expected conditions"),
        ({"sort": 3}, "sort=3: expected a key"),
        ({"root": 3}, "root=3: expected a folder"),
        ({"limit": 0}, "limit=0: expected a whole number, 1 or more"),
    ],
)
def test_what_is_no_question_is_refused(root: Path, given: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        esper.runs(**{"root": root} | given)


def test_a_name_that_is_too_long_is_said_in_a_line(root: Path) -> None:
    with pytest.raises(EsperError, match="File name too long"):
        esper.open_run("x" * 5000, root=root)


LINES = b'{"a":1}\n{"epoch":1,"members":3}\n{"epoch":"x","members":[{"epoch":9}]}\n[1]\n\xff\n{"members":[]}\n'
DAMAGE = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_text(""),
    "garbage": lambda path: path.write_bytes(bytes(range(256))),
    "others": lambda path: path.write_bytes(LINES + path.read_bytes()),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "FIFO": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "events.jsonl"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_is_told_or_passed_over(name: str, damage: str, run: RunHandle, tmp_path: Path) -> None:
    copied = RunHandle(shutil.copytree(run.folder, tmp_path / "copied", ignore=shutil.ignore_patterns("checkpoints")))
    DAMAGE[damage](copied.folder / name)
    ask = {
        "run.json": lambda handle: list(handle.summary),
        "metrics.jsonl": lambda handle: len(handle.metrics()),
        "events.jsonl": lambda handle: len(handle.events()),
    }[name]
    try:
        asked = ask(copied)
    except EsperError as error:
        assert name in str(error) and len(str(error).splitlines()) <= 2
        assert damage in ("missing", "folder", "FIFO") or name == "run.json"
    else:
        assert asked == (ask(run) if damage == "others" else 0)
    assert repr(copied) and copied.status in ("finished", "unreadable")


def test_of_a_damaged_newest_checkpoint_no_older_one_is_passed_off(run: RunHandle, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.member(0)
    copied = RunHandle(shutil.copytree(run.folder, tmp_path / "copied"))
    checkpoint = copied.folder / "checkpoints/agent_epoch_3.safetensors"
    data = bytearray(checkpoint.read_bytes())
    data[-1] ^= 1
    checkpoint.write_bytes(data)
    with pytest.raises(CheckpointError, match="agent_epoch_3"):
        copied.member(0)


@pytest.mark.parametrize(("score", "title"), [("accuracy", "accuracy"), ("r2", "R-squared")])
def test_it_shows_what_its_members_are_judged_by(score: str, title: str, tmp_path: Path) -> None:
    shown = repr(RunHandle(make_run(tmp_path / "a", accuracy=[71.0, 73.0], score=score)))
    assert f"grown {title} 72.0% on test" in shown and f"static twin {title} " in shown

"""The index against run folders that change under it."""

import json
import multiprocessing
import os
import sqlite3
import time
from pathlib import Path

import pytest

from esper.checkpoint import RunLock
from esper.errors import RunError
from esper.runner.directory import RunDirectory
from esper.study.runs import folders
from esper.study.runs.index import INDEX_FILE, read_index, settled_row
from esper.study.runs.rows import COLUMNS
from esper.sweep.jobs import JobFile
from tests.study.run_folders import make_run, write_record


def listed(root: Path) -> dict[str, dict]:
    return {row["run"]: row for row in read_index(root).rows}


def test_a_finished_run_has_its_figures(tmp_path):
    make_run(tmp_path / "digits/a", seed=7)
    row = listed(tmp_path)["digits/a"]
    assert row.keys() == {*COLUMNS, "path"}
    assert (row["status"], row["task"], row["host"], row["policy"]) == ("finished", "digits", "cnn", "heuristic")
    assert (row["seed"], row["members"], row["epoch"], row["path"]) == (7, 2, 3, f"{tmp_path}/digits/a")
    assert row["test_accuracy"] == 81.0
    assert row["twin_test_accuracy"] == 75.5
    assert (row["gain"], row["gain_low"], row["gain_high"]) == (5.5, 4.0, 7.0)
    assert (row["parameters"], row["planted"], row["culled"], row["fossilized"]) == (2100, 6, 1, 5)
    assert row["machine"] == "machine"


def test_a_run_with_final_networks_has_theirs(tmp_path):
    make_run(tmp_path / "a", final=True)
    make_run(tmp_path / "b")
    rows = listed(tmp_path)
    names = ("final_test_accuracy", "final_gain", "final_gain_low", "final_gain_high")
    assert [rows["a"][name] for name in names] == [82.0, -1.0, -1.5, -0.5]
    assert [rows["b"][name] for name in names] == [None] * 4


def test_a_regression_has_its_own_figures(tmp_path):
    make_run(tmp_path / "a", score="r2")
    make_run(tmp_path / "b", score="r2", status="interrupted", accuracy=[-20.0, -30.0])
    rows = listed(tmp_path)
    assert (rows["a"]["test_r2"], rows["a"]["twin_test_r2"], rows["a"]["gain"]) == (81.0, 75.5, 5.5)
    assert (rows["b"]["val_r2"], rows["b"]["test_r2"]) == (-25.0, None)
    assert all(row["test_accuracy"] is row["val_accuracy"] is None for row in rows.values())


def test_the_index_gives_the_same_as_the_folders(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "deep/er/b", status="failed", error="no space")
    first = listed(tmp_path)
    assert sqlite3.connect(tmp_path / INDEX_FILE).execute("SELECT count(*) FROM runs").fetchone() == (2,)
    assert listed(tmp_path) == first


def test_runs_within_a_run_are_found_and_checkpoints_not_searched(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "a/sweep-01/b")
    make_run(tmp_path / "a/checkpoints/c")
    assert listed(tmp_path).keys() == {"a", "a/sweep-01/b"}


def test_a_job_that_never_became_a_run_is_a_row(tmp_path):
    job = JobFile(tmp_path / "sweep-01/0123456789ab")
    job.begin(["policy=static"])
    row = listed(tmp_path)["sweep-01/0123456789ab"]
    assert (row["status"], row["overrides"]) == ("running", "policy=static")
    job.end("failed", error="no such slot")
    row = listed(tmp_path)["sweep-01/0123456789ab"]
    assert row.keys() == {*COLUMNS, "path"}
    assert (row["status"], row["error"], row["sweep"]) == ("failed", "no such slot", "01")
    record = json.loads(job.path.read_text())
    job.path.write_text(json.dumps(record | {"status": "running"}))
    assert listed(tmp_path)["sweep-01/0123456789ab"]["status"] == "killed"


def test_what_changed_is_read_anew_and_what_went_is_forgotten(tmp_path):
    folder = make_run(tmp_path / "a", status="failed")
    make_run(tmp_path / "b")
    assert listed(tmp_path)["a"]["status"] == "failed"
    record = json.loads((folder / "run.json").read_text())
    for status in ("interrupted", "finished", "failed"):  # within one tick of the clock, too
        write_record(folder, record | {"status": status})
        assert listed(tmp_path)["a"]["status"] == status
    os.unlink(tmp_path / "b/run.json")
    assert listed(tmp_path).keys() == {"a"}


def test_a_run_that_changed_long_ago_is_not_read_again(tmp_path, monkeypatch):
    folder = make_run(tmp_path / "a")
    os.utime(folder / "run.json", ns=(0, time.time_ns() - 10**10))
    listed(tmp_path)
    monkeypatch.setattr("esper.study.runs.index.read_row", lambda *_: pytest.fail("it was read"))
    assert listed(tmp_path)["a"]["status"] == "finished"


def test_a_run_under_way_shows_its_last_epoch_and_is_killed_once_nobody_has_it(tmp_path):
    folder = make_run(tmp_path / "a", status="running", epochs=2, accuracy=[70.0, 74.0])
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 3, "mem')
    with RunLock(folder):
        row = listed(tmp_path)["a"]
        assert row["status"] == "running"
        assert (row["test_accuracy"], row["val_accuracy"], row["parameters"]) == (None, 72.0, 1800)
    assert listed(tmp_path)["a"]["status"] == "killed"
    assert settled_row(folder)["status"] == "killed"


@pytest.mark.parametrize(
    ("changes", "updates", "shown"),
    [
        ({"epoch": 0}, None, {"epoch": 2, "update": 0}),  # run.json is written once a second at most
        ({"epoch": 3}, None, {"epoch": 3, "update": 0}),
        ({"epoch": 0, "update": 1, "max_updates": 9}, 4, {"epoch": 2, "update": 4}),
        ({"epoch": 0, "update": 5, "max_updates": 9}, 4, {"epoch": 2, "update": 5}),
    ],
)
def test_progress_is_as_far_as_the_figures_beside_it(tmp_path, changes, updates, shown):
    folder = make_run(tmp_path / "a", **{"status": "running", "accuracy": [70.0, 74.0], "epochs": 2} | changes)
    lines = (json.dumps({"update": update}) + "\n" for update in range(1, (updates or 0) + 1))
    (folder / "learning.jsonl").write_text("".join(lines))
    row = listed(tmp_path)["a"]
    assert {key: row[key] for key in shown} == shown and row["status"] == "killed"


def test_asking_for_a_run_does_not_take_it(tmp_path):
    folder = make_run(tmp_path / "a", status="running")
    (folder / "run.lock").touch()
    assert not folders.is_held(folder)
    with RunLock(folder):
        assert folders.is_held(folder)
        assert folders.is_held(folder)
    assert not folders.is_held(folder)


def test_options_that_were_not_written_down_are_found_in_the_configuration(tmp_path):
    make_run(tmp_path / "a", policy="ppo", options={})
    row = listed(tmp_path)["a"]
    assert (row["task"], row["host"], row["policy"]) == ("digits", "cnn", "ppo")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_run_json_that_cannot_be_read_is_a_row_that_says_so(tmp_path, content):
    folder = make_run(tmp_path / "a")
    (folder / "run.json").write_bytes(content)
    row = listed(tmp_path)["a"]
    assert row["status"] == "unreadable"
    assert "run.json cannot be read" in row["error"]


def test_odd_values_in_a_run_json_are_told_and_blind_nobody_to_the_rest(tmp_path):
    make_run(tmp_path / "a", seed="many", summary={"grown": None}, overrides=None, options=[], versions="?", name={})
    make_run(tmp_path / "b", seed=1 << 80, error="\ud800")
    (tmp_path / "b").rename(tmp_path / "b\n[red]")
    make_run(tmp_path / "c")
    assert listed(tmp_path).keys() == {"a", "c"}
    (tmp_path / "b\n[red]").rename(tmp_path / "b[red]")
    rows = listed(tmp_path)
    assert {run: row["status"] for run, row in rows.items()} == {
        "a": "unreadable",
        "b[red]": "unreadable",
        "c": "finished",
    }
    assert rows["a"]["error"] == "run.json: name is an object; expected text"
    assert (rows["a"]["seed"], rows["a"]["epoch"], rows["a"]["members"]) == (None, 3, 2)  # what is sound is there
    assert rows["b[red]"]["error"].startswith("run.json cannot be read: it holds ")


@pytest.mark.parametrize("damage", ["garbage", "torn", "another version", "another table"])
def test_an_index_that_is_of_no_use_is_rebuilt_and_that_is_said(tmp_path, damage):
    for name in "abc":
        make_run(tmp_path / name)
    index = tmp_path / INDEX_FILE
    before = listed(tmp_path)
    if damage == "garbage":
        index.write_bytes(b"no database" * 1000)
    elif damage == "torn":
        index.write_bytes(index.read_bytes()[:4096] + b"\0" * 4096)
    else:
        with sqlite3.connect(index) as database:
            statement = "PRAGMA user_version = 99" if damage == "another version" else "DROP TABLE runs"
            database.execute(statement)
        database.close()
    found = read_index(tmp_path)
    assert {row["run"]: row for row in found.rows} == before
    assert len(found.notes) == 1
    assert INDEX_FILE in found.notes[0]
    assert read_index(tmp_path).notes == []


def test_where_no_index_can_be_written_the_folders_are_read(tmp_path):
    make_run(tmp_path / "a")
    (tmp_path / INDEX_FILE).mkdir()
    found = read_index(tmp_path)
    assert [row["run"] for row in found.rows] == ["a"]
    assert "read instead" in found.notes[0]


def test_no_such_folder(tmp_path):
    with pytest.raises(RunError, match="there is no such folder"):
        read_index(tmp_path / "none")


def live(root: Path, number: int) -> None:
    """A run's life, as esper.runner.launch leads it."""
    config = {"name": "many", "seed": number, "epochs": 2, "policy": {"name": "static"}}
    path = root / f"many/{number:03}"
    path.mkdir(parents=True)
    with RunDirectory.create(path, config, []) as folder:
        folder.start(engine={})
        for epoch in (1, 2):
            folder.update(epoch=epoch)
        folder.finish({"grown": {"test_accuracy": [float(number)]}})


def watch(root: Path, over: "multiprocessing.synchronize.Event", seen: "multiprocessing.Queue") -> None:
    """List runs until it is over: a run once seen is always seen."""
    known: set[str] = set()
    lost = 0
    while not over.is_set():
        rows = {row["run"] for row in read_index(root).rows}
        lost += len(known - rows)
        known |= rows
    seen.put(lost)


@pytest.mark.slow
def test_a_hundred_runs_at_once_under_the_eyes_of_readers_lose_no_row(tmp_path):
    context = multiprocessing.get_context("fork")
    over, seen = context.Event(), context.Queue()
    readers = [context.Process(target=watch, args=(tmp_path, over, seen)) for _ in range(3)]
    runs = [context.Process(target=live, args=(tmp_path, number)) for number in range(100)]
    for process in (*readers, *runs):
        process.start()
    for process in runs:
        process.join()
    over.set()
    assert [seen.get(timeout=20) for _ in readers] == [0, 0, 0]
    for process in readers:
        process.join()
    assert {process.exitcode for process in (*readers, *runs)} == {0}
    rows = listed(tmp_path)
    assert {run: row["test_accuracy"] for run, row in rows.items()} == {f"many/{n:03}": float(n) for n in range(100)}
    assert {row["status"] for row in rows.values()} == {"finished"}

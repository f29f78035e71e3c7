"""Damaged databases and records, full and read-only disks, low limits: each is answered in a line or two."""

import contextlib
import json
import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from esper.cli import main
from esper.errors import EsperError
from esper.study.evaluate.database import Evaluations
from esper.study.runs.index import INDEX_FILE, read_index
from tests.study.filling import fill, finished
from tests.study.run_folders import make_run, write_record

ROOT = Path(__file__).resolve().parents[2]


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a command, none of which is a traceback."""
    capsys.readouterr()
    code = main(arguments)
    out, err = capsys.readouterr()
    assert code in (0, 1, 2)
    assert "Traceback" not in out + err
    assert len(err.splitlines()) <= (2 if code else 6), err
    return code, out, err


def change(path: Path, *statements: str, values: tuple[Any, ...] = ()) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA writable_schema = ON")
        for statement in statements:
            database.execute(statement, values if "?" in statement else ())


INDEX_DAMAGE: dict[str, Callable[[Path], Any]] = {
    "text that is no UTF-8": lambda path: change(path, "UPDATE runs SET name = CAST(x'ff00fe' AS TEXT)"),
    "a text for a number": lambda path: change(path, "UPDATE runs SET wall_s = 'long', test_accuracy = x'00'"),
    "no status": lambda path: change(path, "UPDATE runs SET status = NULL"),
    "no status of ours": lambda path: change(path, "UPDATE runs SET status = 'fine'"),
    "no time": lambda path: change(path, "UPDATE runs SET started_at = 'yesterday'"),
    "stamps that are none": lambda path: change(path, "UPDATE runs SET size = 'large'"),
    "another schema": lambda path: change(path, "ALTER TABLE runs RENAME COLUMN name TO nome"),
    "a view that never ends": lambda path: change(
        path, "ALTER TABLE runs RENAME TO kept",
        "CREATE VIEW runs AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT * FROM kept, n",
    ),
    "a trigger": lambda path: change(path, "CREATE TRIGGER t AFTER DELETE ON runs BEGIN DELETE FROM runs; END"),
    "a schema that is no UTF-8": lambda path: path.write_bytes(path.read_bytes().replace(b"CREATE", b"CR\xadATE")),
    "no database": lambda path: path.write_bytes(b"hello" * 1000),
    "empty": lambda path: path.write_bytes(b""),
    "torn": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a FIFO": lambda path: (path.unlink(), os.mkfifo(path)),
}  # fmt: skip


@pytest.mark.parametrize("damage", INDEX_DAMAGE)
def test_a_damaged_index_costs_no_row(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    for name in "ab":
        make_run(tmp_path / name)
        os.utime(tmp_path / name / "run.json", (1, 1))  # settled
    before = read_index(tmp_path).rows
    INDEX_DAMAGE[damage](tmp_path / INDEX_FILE)
    assert read_index(tmp_path).rows == before
    code, _, err = said(capsys, "runs", "--root", str(tmp_path))
    assert code == 0 and "2 runs: 2 finished" in err
    assert damage in ("a folder", "a view that never ends") or read_index(tmp_path).notes == []  # whole again


def test_another_programs_database_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "a")
    change(tmp_path / INDEX_FILE, "CREATE TABLE precious (x)", "INSERT INTO precious VALUES (1)")
    content = (tmp_path / INDEX_FILE).read_bytes()
    code, _, err = said(capsys, "runs", "--root", str(tmp_path))
    assert code == 0 and "1 run: 1 finished" in err
    assert (tmp_path / INDEX_FILE).read_bytes() == content
    assert "another program's" in read_index(tmp_path).notes[0]


def test_a_locked_index_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from esper.study.runs import index

    monkeypatch.setattr(index, "BUSY_TIMEOUT_S", 0.1)
    make_run(tmp_path / "a")
    read_index(tmp_path)
    make_run(tmp_path / "b")
    with contextlib.closing(sqlite3.connect(tmp_path / INDEX_FILE, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        found = read_index(tmp_path)
    assert [row["status"] for row in found.rows] == 2 * ["finished"]
    assert "locked" in found.notes[0]


BAD_RUNS: dict[str, Any] = {
    "no status": {"status": ...},
    "a status of its own": {"status": "fine"},
    "a number for a status": {"status": 3},
    "a time that is none": {"started_at": "yesterday"},
    "a time without a zone": {"started_at": "2026-01-01T00:00:00"},
    "a text for a length of time": {"wall_s": "long"},
    "a list for an epoch": {"epoch": [1]},
    "a vast epoch": {"epoch": 10**12},
    "a summary of texts": {"summary": {"grown": {"test_accuracy": "good"}}},
    "a summary of lists": {"summary": [1, 2]},
    "a difference of texts": {"summary": {"difference": {"test_accuracy": {"mean": "large"}}}},
    "overrides that are numbers": {"overrides": [1]},
    "options that are lists": {"options": {"policy": ["ppo"]}},
    "an error that is an object": {"status": "failed", "error": {"why": "?"}},
}


@pytest.mark.sampled(5)
@pytest.mark.parametrize("kind", BAD_RUNS)
def test_one_bad_run_blinds_nobody_to_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    make_run(tmp_path / "good")
    make_run(tmp_path / "better", policy="ppo")
    folder = make_run(tmp_path / "bad", policy="static")
    record = json.loads((folder / "run.json").read_text()) | BAD_RUNS[kind]
    write_record(folder, {key: value for key, value in record.items() if value is not ...})
    for further in ([], ["--filter", "age<9d"], ["--sort", "started_at"], ["--json"]):
        code, out, _ = said(capsys, "runs", "--root", str(tmp_path), *further)
        assert code == 0 and "good" in out and "better" in out
    assert "3 runs: 2 finished, 1 unreadable" in said(capsys, "runs", "--root", str(tmp_path))[2]
    (row,) = (row for row in read_index(tmp_path).rows if row["run"] == "bad")
    assert row["status"] == "unreadable" and row["error"].startswith("run.json: ")
    assert said(capsys, "report", str(folder))[0] == 0
    assert kind == "no status" or "Left out: run.json: " in (folder / "report.html").read_text()
    assert said(capsys, "compare", *(str(tmp_path / name) for name in ("good", "better", "bad")))[0] == 0


BAD_LINES: dict[str, str] = {
    "no JSON": "{",
    "a list": "[1]",
    "no members": '{"epoch": 2}',
    "members that are none": '{"epoch": 2, "members": "two"}',
    "a member without a number": '{"epoch": 2, "members": [{"val_accuracy": 1}]}',
    "an accuracy that is a text": '{"epoch": 2, "members": [{"member": 0, "val_accuracy": "high"}]}',
    "an epoch that is a text": '{"epoch": "2", "members": []}',
    "an epoch far away": '{"epoch": 900000000000, "members": []}',
    "slots that are a list": '{"epoch": 2, "members": [{"member": 0, "slots": []}]}',
    "a slot that is a text": '{"epoch": 2, "members": [{"member": 0, "slots": {"early": "full"}}]}',
    "a type that is a list": '{"type": ["culled"], "epoch": 2}',
    "data that is a text": '{"type": "gate_evaluated", "epoch": 2, "data": "G2"}',
    "checks that are numbers": '{"type": "gate_evaluated", "epoch": 2, "data": {"checks_failed": [1]}}',
    "an update that is a text": '{"update": "two"}',
    "an event of no epoch": '{"type": "seed_germinated", "member": 0, "slot": "early"}',
    "a figure that is a text": '{"update": 2, "value_loss": "high"}',
    "a figure that is a list": '{"update": 2, "return_mean": [1]}',
}


@pytest.mark.sampled(20)
@pytest.mark.parametrize("file", ["metrics.jsonl", "events.jsonl", "learning.jsonl"])
@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_line_is_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, kind: str
) -> None:
    folders = [make_run(tmp_path / name, policy=name) for name in ("static", "ppo")]
    for folder in folders:
        with open(folder / file, "a") as lines:
            lines.write(BAD_LINES[kind] + "\n")
    assert said(capsys, "report", str(folders[0]))[0] == 0
    assert "1 unreadable line in" in (folders[0] / "report.html").read_text()
    assert said(capsys, "compare", *map(str, folders))[0] == 0


ODD_LINES = {
    "figures next to nothing": ("learning.jsonl", '{"update": 9, "value_loss": 5e-324, "explained_variance": 5e-324}'),
    "figures without end": ("learning.jsonl", '{"update": 9, "value_loss": 1.7e308, "explained_variance": -1.7e308}'),
    "an epoch of no members": ("metrics.jsonl", '{"epoch": 9, "members": []}'),
}


@pytest.mark.parametrize("kind", ODD_LINES)
def test_a_sound_line_of_odd_figures_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    file, line = ODD_LINES[kind]
    folders = [make_run(tmp_path / name, policy=name) for name in ("static", "ppo")]
    for folder in folders:
        lines = (folder / file).read_text().splitlines() if (folder / file).exists() else []
        (folder / file).write_text("".join(f"{one}\n" for one in (*lines, line, line.replace("9", "10", 1))))
        record = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps(record | {"summary": None, "status": "interrupted"}))
        assert said(capsys, "report", str(folder))[0] == 0
    assert said(capsys, "compare", *map(str, folders))[0] == 0


EVALUATIONS_DAMAGE: dict[str, Callable[[Path], Any]] = {
    "text that is no UTF-8": lambda path: change(path, "UPDATE versions SET policy = CAST(x'ff00fe' AS TEXT)"),
    "a configuration that is no JSON": lambda path: change(path, "UPDATE versions SET config = '{'"),
    "a configuration that is a list": lambda path: change(path, "UPDATE versions SET config = '[]'"),
    "a deep configuration": lambda path: change(path, "UPDATE versions SET config = ?", values=("[" * 100_000,)),
    "a status that is none": lambda path: change(
        path, "PRAGMA ignore_check_constraints = ON", "UPDATE evaluations SET status = 3, wall_s = 'long'"
    ),
    "values that are texts": lambda path: change(
        path, "PRAGMA ignore_check_constraints = ON", "UPDATE samples SET value = 'high', metric = 3"
    ),
    "a member that is a text": lambda path: change(
        path, "PRAGMA ignore_check_constraints = ON", "UPDATE evaluations SET seed = 'one' WHERE seed = 1"
    ),
    "a source of nothing": lambda path: change(path, "UPDATE sources SET version = 99"),
    "no table": lambda path: change(path, "DROP TABLE samples"),
    "a schema that is no UTF-8": lambda path: path.write_bytes(path.read_bytes().replace(b"CREATE", b"CR\xadATE")),
    "no database": lambda path: path.write_bytes(b"hello" * 1000),
    "torn": lambda path: path.write_bytes(path.read_bytes()[:9000]),
    "zeros": lambda path: path.write_bytes(path.read_bytes()[:4096] + bytes(len(path.read_bytes()) - 4096)),
    "a FIFO": lambda path: (path.unlink(), os.mkfifo(path)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", EVALUATIONS_DAMAGE)
@pytest.mark.parametrize("form", ["table", "json"])
def test_damaged_evaluations(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str, form: str) -> None:
    path = tmp_path / "evaluations.sqlite"
    fill(path, [finished(1, 80.0, 82.0), finished(2, 70.0)], run="outputs/a")
    EVALUATIONS_DAMAGE[damage](path)
    code, out, err = said(capsys, "analyze", "--db", str(path), "--format", form)
    assert (code == 2 and str(path) in err) or (code == 0 and out)


def test_nothing_is_made_where_a_link_to_nowhere_leads(tmp_path: Path) -> None:
    link = tmp_path / "evaluations.sqlite"
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(EsperError, match="cannot be opened"):
        Evaluations(link)
    assert not (tmp_path / "nowhere").exists()


def under(limits: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    program = f"import resource, sys\nfrom esper.cli import main\n{limits}\nsys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("handles", [4, 5, 6])
def test_few_file_handles_are_told_of(tmp_path: Path, handles: int) -> None:
    make_run(tmp_path / "outputs/a")
    few = "import esper.study.runs.index, esper.study.runs.query, esper.study.runs.listing, rich.console\n"
    few += f"resource.setrlimit(resource.RLIMIT_NOFILE, ({handles}, {handles}))"
    done = under(few, "runs", cwd=tmp_path)
    assert "Traceback" not in done.stderr and "no runs" not in done.stdout + done.stderr
    if done.returncode:
        assert done.returncode == 2 and "Too many open files" in done.stderr and "ulimit -n" in done.stderr
    else:
        assert "outputs" in done.stdout or "1 run: 1 " in done.stdout + done.stderr


def test_a_folder_that_cannot_be_looked_into_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        make_run(tmp_path / name / "x")
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("/a"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = read_index(tmp_path)
    assert [row["run"] for row in found.rows] == ["b/x"]
    assert found.notes == [f"{tmp_path}/a: left out: Permission denied"]


def test_a_report_on_a_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "a")
    assert said(capsys, "report", str(folder))[0] == 0
    page = (folder / "report.html").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        code, _, err = said(capsys, "report", str(folder))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 2 and "file size limit" in err
    assert (folder / "report.html").read_bytes() == page
    assert not list(folder.glob(".report*"))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(24, "Too many open files", "outputs"), "error: outputs: Too many open files\n  to see"),
        (OSError(5, "Input/output error"), "error: Input/output error\n"),
        (MemoryError(), "error: there is not enough memory"),
    ],
)
def test_what_the_machine_says_is_an_answer_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception, expected: str
) -> None:
    from esper import run
    from esper.study.runs import index

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(index, "read_index", fail)
    monkeypatch.setattr(run, "_resume", fail)
    code, _, err = said(capsys, "runs")
    assert code == 2 and err.startswith(expected)
    assert run.main(["resume=outputs/a"]) == 2
    assert capsys.readouterr().err.startswith(expected)

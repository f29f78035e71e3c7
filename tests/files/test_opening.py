"""Nothing is written through a name that leads elsewhere, and nothing waits for what never comes."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from esper.checkpoint import CheckpointManager, RunLock
from esper.errors import CheckpointError, EsperError
from esper.files import FileLock, open_log, open_new, open_to_append, open_to_read, read_json, read_yaml, write_atomic
from esper.files.records import RUN_FILE
from esper.nissa import JsonlSink, cut_back, read_jsonl, write_report
from esper.nissa.report.page import write_page
from esper.runner.directory import RunDirectory, write_config
from esper.study.runs.folders import is_locked
from esper.study.runs.index import INDEX_FILE, read_index
from esper.sweep import SweepError
from esper.sweep.folder import SweepFolder
from esper.sweep.jobs import JobFile
from tests.study.run_folders import make_run

IDENTITY: dict[str, Any] = {"id": "abc", "base": {}, "swept": []}
CONFIG = {"name": "x", "seed": 0, "epochs": 3}
PRECIOUS = b'{"epoch": 0}\n{"epoch": 1}\nnot ours\n'


@pytest.fixture(autouse=True)
def nothing_waits() -> Iterator[None]:
    """A test that hangs fails instead."""

    def late(number: int, frame: object) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def lock(path: Path) -> None:
    with RunLock(path.parent):
        pass


def sink(path: Path) -> None:
    record = {"epoch": 0, "update": 0}
    one = JsonlSink(path.parent)
    one.epoch(record)
    one.update(record)
    one.event(_Event())  # type: ignore[arg-type]


class _Event:
    def to_dict(self) -> dict[str, int]:
        return {"epoch": 0}


def sweep(path: Path) -> None:
    with SweepFolder(path.parent, IDENTITY) as folder:
        folder.note({}, [])


def job(path: Path) -> None:
    file = JobFile(path.parent)
    file.begin([])
    with open_log(file.log) as log:
        print("said", file=log)
    file.end("finished")


# What is written in place: a link is refused. How each is written, by the way that a run or a sweep takes.
IN_PLACE: dict[str, Callable[[Path], Any]] = {
    "run.lock": lock,
    "sweep.lock": sweep,
    "job.log": job,
    "metrics.jsonl": sink,
    "events.jsonl": sink,
    "learning.jsonl": sink,
    "some.log": open_log,
    "any.jsonl": open_to_append,
    "new": open_new,
    "a.lock": lambda path: FileLock(path).acquire() or pytest.fail("not taken"),
}
# What is replaced as a whole: the link goes, and what it led to stays.
REPLACED: dict[str, Callable[[Path], Any]] = {
    "run.json": lambda path: RunDirectory.create(path.parent, CONFIG, []),
    "config.yaml": lambda path: write_config(path.parent, CONFIG),
    "sweep.json": sweep,
    "job.json": job,
    "page.html": lambda path: write_page(path, "page"),
    "sidecar.json": lambda path: write_atomic(path, b"{}"),
}
LINKS: dict[str, Callable[[Path, Path], None]] = {
    "symbolic link": lambda path, target: path.symlink_to(target),
    "hard link": lambda path, target: path.hardlink_to(target),
    "link to nothing": lambda path, target: path.symlink_to(target.with_name("made")),
    "link to a folder": lambda path, target: path.symlink_to(target.parent),
}
OTHERS: dict[str, Callable[[Path], None]] = {
    "FIFO": os.mkfifo,
    "folder": os.mkdir,
    "device": lambda path: path.symlink_to("/dev/null"),
}


@pytest.fixture
def precious(tmp_path: Path) -> Iterator[Path]:
    """A file of the user's, which nothing may touch."""
    target = tmp_path / "home" / "precious"
    target.parent.mkdir()
    target.write_bytes(PRECIOUS)
    yield target
    assert target.read_bytes() == PRECIOUS
    assert os.listdir(target.parent) == ["precious"]


@pytest.mark.parametrize("name", IN_PLACE)
@pytest.mark.parametrize("link", LINKS)
def test_no_link_is_written_through(tmp_path: Path, precious: Path, name: str, link: str) -> None:
    path = tmp_path / "run" / name
    path.parent.mkdir()
    LINKS[link](path, precious)
    with pytest.raises((OSError, EsperError, SweepError)) as caught:
        IN_PLACE[name](path)
    assert len(str(caught.value).splitlines()) <= 2
    assert name == "new" or "link" in str(caught.value)


@pytest.mark.parametrize("name", IN_PLACE)
@pytest.mark.parametrize("kind", OTHERS)
def test_only_files_are_written_to_and_none_waits(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / "run" / name
    path.parent.mkdir()
    OTHERS[kind](path)
    with pytest.raises((OSError, EsperError, SweepError)):
        IN_PLACE[name](path)


@pytest.mark.parametrize("name", REPLACED)
@pytest.mark.parametrize("link", ["symbolic link", "hard link", "link to nothing"])
def test_what_is_replaced_leaves_what_a_link_led_to(tmp_path: Path, precious: Path, name: str, link: str) -> None:
    path = tmp_path / "run" / name
    path.parent.mkdir()
    if name != "run.json":  # which is taken for a run's
        LINKS[link](path, precious)
    REPLACED[name](path)
    assert path.is_file() and not path.is_symlink() and path.stat().st_nlink == 1


def test_cutting_back_cuts_no_other_file(tmp_path: Path, precious: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic link"):
        cut_back(tmp_path, metrics=0)


def test_a_page_is_not_written_through_a_link_in_the_way_of_its_first_draft(tmp_path: Path, precious: Path) -> None:
    folder = make_run(tmp_path / "run")
    (folder / f".report.html.{os.getpid()}").symlink_to(precious)
    (folder / "report.html").symlink_to(precious)
    assert "<html" in write_report(folder).read_text()


@pytest.mark.parametrize("kind", ["link", "file", "FIFO"])
def test_checkpoints_go_into_no_folder_of_others(tmp_path: Path, precious: Path, kind: str) -> None:
    folder = tmp_path / "run" / "checkpoints"
    folder.parent.mkdir()
    {"link": lambda: folder.symlink_to(precious.parent), "file": folder.touch, "FIFO": lambda: os.mkfifo(folder)}[
        kind
    ]()

    class Agent:
        def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
            return {}, {}

    with pytest.raises(CheckpointError, match="expected a folder"):
        CheckpointManager(folder.parent).save_checkpoint(Agent(), 1)


def test_a_jobs_folder_is_no_link(tmp_path: Path, precious: Path) -> None:
    (tmp_path / "job").symlink_to(precious.parent)
    with pytest.raises(SweepError, match="symbolic link"):
        JobFile(tmp_path / "job").begin([])


def test_dashboards_go_into_no_folder_of_others(tmp_path: Path, precious: Path) -> None:
    from esper.nissa.sinks.tensorboard_sink import TensorBoardSink

    (tmp_path / "tensorboard").symlink_to(precious.parent)
    with pytest.raises(OSError, match="symbolic link"):
        TensorBoardSink(tmp_path)


def test_the_index_is_no_link(tmp_path: Path, precious: Path) -> None:
    root = tmp_path / "outputs"
    make_run(root / "a")
    (root / INDEX_FILE).symlink_to(precious)
    assert [row["status"] for row in read_index(root).rows] == ["finished"]


@pytest.mark.parametrize("kind", OTHERS)
def test_reading_what_is_no_file_waits_for_nothing(tmp_path: Path, kind: str) -> None:
    folder = make_run(tmp_path / "outputs/a")
    for name in (RUN_FILE, "config.yaml", "metrics.jsonl", "events.jsonl", "run.lock", "job.log"):
        (folder / name).unlink(missing_ok=True)
        OTHERS[kind](folder / name)
    for read in (open_to_read, read_json, read_yaml, read_jsonl):
        with pytest.raises(OSError, match="expected a file"):
            read(folder / RUN_FILE)
    assert is_locked(folder / "run.lock")  # what cannot be asked is left alone
    assert [row["status"] for row in read_index(tmp_path / "outputs").rows] == ["unreadable"]
    with pytest.raises(EsperError):
        CheckpointManager(folder).load_latest_agent()


def test_links_to_what_is_read_are_followed(tmp_path: Path) -> None:
    (tmp_path / "there.json").write_text("[1]")
    (tmp_path / "here.json").symlink_to("there.json")
    assert read_json(tmp_path / "here.json") == [1]

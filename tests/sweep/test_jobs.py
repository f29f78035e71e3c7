"""job.json, and who is at the job."""

import json
import math
import subprocess
import sys

import pytest

from esper.files import FileLock
from esper.sweep import FAILED, FINISHED, INTERRUPTED, JobFile, SweepError


@pytest.fixture
def job(tmp_path):
    return JobFile(tmp_path / "abc")


def test_from_new_to_finished(job):
    assert job.status() == "new"
    assert job.begin(["x=1"]) == 1
    assert JobFile(job.folder).status() == "running"
    assert json.loads(job.path.read_text())["finished_at"] is None
    record = job.end(FINISHED, {"score": 1.5, "bad": math.inf, "name": "n", "deep": {}})
    assert record == job.record()
    assert record["result"] == {"score": 1.5, "bad": None, "name": "n"}
    assert (record["id"], record["overrides"], record["attempt"]) == ("abc", ["x=1"], 1)
    assert record["seconds"] >= 0 and record["started_at"] <= record["finished_at"]
    assert job.status() == FINISHED


@pytest.mark.parametrize(("value", "kept"), [(3, {"result": 3}), (True, None), (None, None), ("x", None), ([1], None)])
def test_what_a_task_returns_is_kept_as_figures(job, value, kept):
    job.begin([])
    assert job.end(FINISHED, value)["result"] == kept


def test_a_second_attempt_is_counted_and_forgets_the_error(job):
    job.begin([])
    job.end(INTERRUPTED, error="Ctrl-C")
    assert job.begin([]) == 2
    assert job.record()["error"] is None
    job.end(FAILED, error="why")
    assert (job.status(), job.record()["error"]) == (FAILED, "why")


def test_a_job_that_somebody_is_at_is_refused_and_names_them(job):
    job.begin([])
    with pytest.raises(SweepError, match=rf"process {job.record()['pid']} on "):
        JobFile(job.folder).begin([])
    assert job.record()["attempt"] == 1
    job.end(FINISHED)
    assert JobFile(job.folder).begin([]) == 2


def test_a_lock_of_the_tasks_own_counts_too(job):
    job.begin([])
    job.end(INTERRUPTED)
    lock = FileLock(job.folder / "run.lock")
    assert lock.acquire()
    assert job.status() == "running"
    assert "process" in job.holder()
    lock.release()
    assert job.status() == INTERRUPTED


def test_a_job_whose_process_was_killed_is_under_way_and_free(tmp_path):
    program = (
        "import os, pathlib, sys; from esper.sweep import JobFile\n"
        "JobFile(pathlib.Path(sys.argv[1])).begin([]); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "abc")], timeout=30)
    job = JobFile(tmp_path / "abc")
    assert job.status() == "killed"
    assert job.begin([]) == 2


def test_a_file_that_cannot_be_read_means_under_way(job):
    job.folder.mkdir()
    job.path.write_text('{"status": "fini')
    assert job.status() == "killed"
    assert job.begin([]) == 1


def test_an_attempt_is_moved_aside_and_never_over_another(job):
    for number in (1, 2):
        job.begin([])
        job.end(FAILED, error=str(number))
        assert job.set_aside().name == f"abc.{number}"
    assert [JobFile(job.folder.with_name(f"abc.{n}")).record()["error"] for n in (1, 2)] == ["1", "2"]
    assert job.status() == "new"


def test_what_a_killed_writer_left_goes_with_the_next_attempt(tmp_path):
    for name in (".job.json.0123abcd.tmp", ".mine.json.0123abcd.tmp"):
        (tmp_path / name).touch()
    JobFile(tmp_path).begin([])
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.json.0123abcd.tmp", "job.json", "job.log"]

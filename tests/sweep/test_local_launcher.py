"""Several jobs at once, each in a process of its own."""

import os

import pytest

from esper.sweep import SweepError
from tests.sweep.app import decorated, sweep
from tests.sweep.test_sweeper import calls, jobs

LOCAL = "hydra/launcher=local"


@pytest.mark.slow
def test_jobs_run_in_processes_of_their_own(tmp_path, capfd):
    assert sweep(tmp_path, "x=1,2,3", LOCAL) == 0
    records = jobs(tmp_path)
    assert {x: record["result"]["sum"] for x, record in records.items()} == {"x=1": 1.5, "x=2": 2.5, "x=3": 3.5}
    seen = [(tmp_path / record["id"] / "calls.txt").read_text().split() for record in records.values()]
    assert len({pid for pid, _ in seen} | {str(os.getpid())}) == 4
    assert {threads for _, threads in seen} == {"1"}
    assert (tmp_path / records["x=1"]["id"] / "job.log").read_text() == "x is 1\nstraight to the descriptor\n"
    assert "x is" not in capfd.readouterr().out


@pytest.mark.slow
def test_nothing_that_a_job_left_in_its_process_meets_the_next(tmp_path):
    assert sweep(tmp_path, "x=1,2,3", "does=remember", LOCAL, "hydra.launcher.processes=1") == 0
    assert {record["result"]["result"] for record in jobs(tmp_path).values()} == {1}


@pytest.mark.slow
def test_a_process_that_ends_without_a_word_is_told_of(tmp_path, capfd):
    assert sweep(tmp_path, "x=1,2,3", "does=die", LOCAL) == 1
    records = jobs(tmp_path)
    assert records["x=1"]["status"] == "finished"
    assert (records["x=2"]["status"], records["x=2"]["error"]) == ("failed", "its process ended with exit code 3")
    assert (records["x=3"]["status"], records["x=3"]["error"]) == ("interrupted", "its process ended with SIGKILL")
    assert "exit code 3" in capfd.readouterr().err
    assert sweep(tmp_path, "x=1,2,3", "does=die", LOCAL) == 1  # what was killed goes on, what failed does not
    assert [calls(tmp_path, jobs(tmp_path)[x]) for x in ("x=1", "x=2", "x=3")] == [1, 1, 2]


def test_a_job_that_is_stopped_by_itself_stops_no_other(tmp_path):
    assert sweep(tmp_path, "x=1,2", "does=ctrl_c", LOCAL, "hydra.launcher.processes=1") == 1
    assert [record["status"] for record in jobs(tmp_path).values()] == ["interrupted"] * 2


@pytest.mark.slow
def test_a_function_that_hydra_decorates_reaches_its_process(tmp_path):
    assert sweep(tmp_path, "x=1,2", LOCAL, task=decorated.__wrapped__) == 0
    assert [record["result"]["result"] for _, record in sorted(jobs(tmp_path).items())] == [1, 2]


@pytest.mark.parametrize("key", ["processes", "threads"])
def test_numbers_below_one_are_refused(tmp_path, key):
    with pytest.raises(SweepError, match=f"hydra.launcher.{key}=0"):
        sweep(tmp_path / "s", "x=1", LOCAL, f"hydra.launcher.{key}=0")
    assert not (tmp_path / "s").exists()

"""A sweep of any program: what is run, what is skipped, what is said."""

import copy
import json
import os

import pytest
from hydra.core.plugins import Plugins

from esper.sweep import JobError, SweepError
from esper.sweep.jobs import JobFile
from tests.sweep.app import sweep, task


@pytest.fixture
def basic_launcher():
    """The class, as Hydra's search for plugins has left it."""
    return Plugins.instance().class_name_to_class["hydra._internal.core_plugins.basic_launcher.BasicLauncher"]


def jobs(folder):
    """job.json of each job, by the value of x."""
    records = [JobFile(path.parent).record() for path in folder.glob("*/job.json") if "." not in path.parent.name]
    found = {next(o for o in record["overrides"] if o.startswith("x=")): record for record in records}
    assert len(found) == len(records)
    return found


def calls(folder, record):
    return len((folder / record["id"] / "calls.txt").read_text().splitlines())


def test_every_combination_is_run_once_whatever_is_asked_again(tmp_path, capfd):
    assert sweep(tmp_path, "x=1,2", "y=b") == 0
    first = jobs(tmp_path)
    assert {x: record["result"] for x, record in first.items()} == {
        "x=1": {"sum": 1.5, "label": "b", "nothing": None},
        "x=2": {"sum": 2.5, "label": "b", "nothing": None},
    }
    assert sweep(tmp_path, "x=1,2", "y=b") == 0
    assert jobs(tmp_path) == first
    assert sweep(tmp_path, "x=0,2,1", "y=b") == 0  # more values, in another order
    assert {x: jobs(tmp_path)[x] for x in first} == first
    assert calls(tmp_path, jobs(tmp_path)["x=0"]) == 1
    shown = capfd.readouterr().out
    assert "3 jobs in" in shown and "1 to run" in shown and "2.5" in shown
    known = json.loads((tmp_path / "sweep.json").read_text())["jobs"]
    assert sorted(known.values()) == [["x=0"], ["x=1"], ["x=2"]]


@pytest.mark.slow
def test_a_failing_job_stops_no_other_and_is_told_at_once_and_at_the_end(tmp_path, capfd):
    assert sweep(tmp_path, "does=fail_once", "x=2,3") == 1
    records = jobs(tmp_path)
    assert [records[x]["status"] for x in ("x=2", "x=3")] == ["failed", "finished"]
    assert records["x=2"]["error"] == "ValueError: two is too many\nfor me"
    log = tmp_path / records["x=2"]["id"] / "job.log"
    assert "x is 2" in log.read_text() and "Traceback" in log.read_text()
    shown = capfd.readouterr()
    assert f"[1/2] {records['x=2']['id']} failed" in shown.out and "two is too many" in shown.out
    assert "Traceback" not in shown.out + shown.err
    assert f"two is too many\n  {log}" in shown.err
    assert "rerun=failed" in shown.out

    (tmp_path / "mended").touch()
    assert sweep(tmp_path, "does=fail_once", "x=2,3") == 1  # not unless it is asked for
    assert sweep(tmp_path, "does=fail_once", "x=2,3", "hydra.sweeper.rerun=failed") == 0
    assert calls(tmp_path, records["x=3"]) == 1
    aside = tmp_path / f"{records['x=2']['id']}.1"
    assert JobFile(aside).record() == records["x=2"] and "Traceback" in (aside / "job.log").read_text()
    assert calls(tmp_path, records["x=2"]) == 1


@pytest.mark.slow
def test_rerun_all_keeps_what_there_was(tmp_path):
    for _ in range(2):
        assert sweep(tmp_path, "x=1,2", "hydra.sweeper.rerun=all") == 0
    assert len(list(tmp_path.glob("*.1"))) == 2
    assert {record["attempt"] for path in tmp_path.glob("*/job.json") for record in [json.loads(path.read_text())]} == {
        1
    }


@pytest.mark.slow
def test_an_interrupted_job_stops_the_sweep_and_goes_on_later(tmp_path, capfd):
    assert sweep(tmp_path, "does=stop_at_two", "x=1,2,3") == 143
    records = jobs(tmp_path)
    assert {x: record["status"] for x, record in records.items()} == {"x=1": "finished", "x=2": "interrupted"}
    assert "the same command goes on from here" in capfd.readouterr().out
    assert sweep(tmp_path, "does=stop_at_two", "x=1,2,3") == 0
    assert [calls(tmp_path, record) for record in jobs(tmp_path).values()].count(2) == 1
    assert jobs(tmp_path)["x=2"]["attempt"] == 2 and jobs(tmp_path)["x=1"] == records["x=1"]
    assert "--- attempt 2" in (tmp_path / records["x=2"]["id"] / "job.log").read_text()


def test_figures_are_shown_with_the_units_that_the_task_says_they_have(tmp_path, capfd):
    def measured(config):
        return {"share": config.x + 0.5, "gain": config.x, "size": 3}

    measured.units = {"share": "%", "gain": "points", "other": "m"}
    assert sweep(tmp_path, "x=1,2", task=measured) == 0
    shown = capfd.readouterr().out
    assert "share 1.5% gain 1 points size 3\n" in shown
    assert [line.split()[3:9] for line in shown.splitlines() if line.startswith("job ")] == [
        ["share", "(%)", "gain", "(points)", "size", "sets"]
    ]


def test_ctrl_c_is_an_interruption(tmp_path):
    assert sweep(tmp_path, "does=ctrl_c", "x=1,2") == 130
    assert [record["status"] for record in jobs(tmp_path).values()] == ["interrupted"]


def test_ctrl_c_of_which_a_job_that_ends_makes_nothing_stops_the_sweep(tmp_path, capfd):
    assert sweep(tmp_path, "does=finish_at_ctrl_c", "x=1,2") == 130
    assert [record["status"] for record in jobs(tmp_path).values()] == ["finished"]
    assert "1 finished, 1 new; the same command goes on from here" in capfd.readouterr().out


def test_an_interruption_far_away_is_no_reason_to_stop(tmp_path, monkeypatch, basic_launcher):
    """A worker elsewhere has a copy of the task, and maybe the number of the sweep's own process."""
    setup = basic_launcher.setup

    def far_away(self, *, task_function, **others):
        setup(self, task_function=copy.copy(task_function), **others)

    monkeypatch.setattr(basic_launcher, "setup", far_away)
    assert sweep(tmp_path, "does=ctrl_c", "x=1,2") == 1
    assert [record["status"] for record in jobs(tmp_path).values()] == ["interrupted"] * 2


@pytest.mark.slow
def test_a_dry_run_lists_the_jobs_and_touches_nothing(tmp_path, capfd):
    assert sweep(tmp_path / "s", "x=1,2", "hydra.sweeper.dry_run=true") == 0
    assert not (tmp_path / "s").exists()
    assert sweep(tmp_path / "s", "x=1,1") == 0
    before = sorted(tmp_path.rglob("*"))
    capfd.readouterr()
    sweep(tmp_path / "s", "x=1,2", "hydra.sweeper.dry_run=true")
    lines = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert [line[1:] for line in lines[1:3]] == [["finished", "x=1"], ["new", "x=2"]]
    assert lines[1][0] == next(iter(jobs(tmp_path / "s").values()))["id"]
    assert sorted(tmp_path.rglob("*")) == before


def test_jobs_that_are_alike_are_one(tmp_path, capfd):
    assert sweep(tmp_path, "x=1,1") == 0
    assert len(jobs(tmp_path)) == 1
    assert "2 combinations are 1 job:" in capfd.readouterr().out


@pytest.mark.slow
def test_where_nothing_is_swept_that_is_said(tmp_path, capfd):
    assert sweep(tmp_path, "x=1") == 0
    shown = capfd.readouterr().out
    assert shown.startswith("nothing is swept: one job\n") and ": 1 job in " in shown


@pytest.mark.slow
def test_what_is_volatile_tells_jobs_apart_only_where_it_is_swept(tmp_path):
    assert sweep(tmp_path / "a", "x=1,2", "note=first") == 0
    assert sweep(tmp_path / "a", "x=1,2", "note=second") == 0
    assert len(jobs(tmp_path / "a")) == 2
    assert sweep(tmp_path / "b", "x=1", "note=first,second") == 0
    assert len(list((tmp_path / "b").glob("*/job.json"))) == 2


def test_zip_pairs_values(tmp_path):
    assert sweep(tmp_path, "x=1,2", "y=a,b", "hydra.sweeper.zip=[x,y]") == 0
    assert [record["result"]["label"] for _, record in sorted(jobs(tmp_path).items())] == ["a", "b"]


def test_recipes_may_hold_the_values(tmp_path):
    assert sweep(tmp_path, "+hydra.sweeper.params.x='1,2'") == 0
    assert sorted(jobs(tmp_path)) == ["x=1", "x=2"]


@pytest.mark.slow
def test_all_values_are_checked_before_the_first_job(tmp_path):
    def checked(config):
        return task(config)

    def check(config):
        assert "hydra" not in config
        if config.x == 3:
            raise ValueError("three is refused")

    checked.check = check
    with pytest.raises(JobError, match="x=3") as caught:
        sweep(tmp_path / "s", "x=1,2,3", task=checked)
    assert caught.value.overrides == ["x=3"] and "three" in str(caught.value.reason)
    with pytest.raises(JobError):
        sweep(tmp_path / "s", "x=1,nonsense")
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_a_folder_of_another_sweep_is_refused(tmp_path):
    assert sweep(tmp_path, "x=1") == 0
    with pytest.raises(SweepError, match='y is "a" there, and "b" here'):
        sweep(tmp_path, "x=1", "y=b")
    with pytest.raises(SweepError, match="another sweep"):
        sweep(tmp_path, "x=1", "y=b", "hydra.sweeper.dry_run=true")


@pytest.mark.slow
def test_a_job_that_another_process_is_at_is_left_to_it(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("esper.sweep.sweeper.DYING_S", 0.0)
    assert sweep(tmp_path, "x=1,2") == 0
    other = JobFile(tmp_path / jobs(tmp_path)["x=1"]["id"])
    other.begin(["x=1"])
    try:
        assert sweep(tmp_path, "x=1,2", "hydra.sweeper.rerun=all") == 1
    finally:
        other.end("finished")
    shown = capfd.readouterr().out
    assert f"is left to process {os.getpid()} on" in shown and "1 running" in shown
    assert calls(tmp_path, jobs(tmp_path)["x=1"]) == 1


def test_what_a_job_prints_goes_to_its_log_and_nothing_else_does(tmp_path, capfd):
    assert sweep(tmp_path, "x=1,2") == 0
    os.write(1, b"mine again")
    logs = {x: (tmp_path / record["id"] / "job.log").read_text() for x, record in jobs(tmp_path).items()}
    assert all(f"x is {x[2:]}\nstraight to the descriptor\n" == log for x, log in logs.items())
    shown = capfd.readouterr()
    assert "x is" not in shown.out and "descriptor" not in shown.err and "mine again" in shown.out


def test_a_launcher_that_gives_up_costs_no_results(tmp_path, capfd, monkeypatch, basic_launcher):
    launch = basic_launcher.launch

    def give_up(self, overrides, initial_job_idx):
        launch(self, overrides[:1], initial_job_idx)
        raise RuntimeError("the cluster is gone")

    monkeypatch.setattr(basic_launcher, "launch", give_up)
    assert sweep(tmp_path, "x=1,2") == 1
    shown = capfd.readouterr()
    assert "the cluster is gone" in shown.err and "1 finished, 1 new" in shown.out
    monkeypatch.undo()
    assert sweep(tmp_path, "x=1,2") == 0

"""A sweep that is killed and started again ends as one that nobody disturbed."""

import json
import signal
import time

import pytest
from safetensors.torch import load_file

from esper.checkpoint import RunLock
from tests.e2e.conftest import CommandLine, last_epoch, record_of
from tests.e2e.test_resume import what_happened

TINY = ("debug=smoke", "policy=static", "telemetry=none", "engine.members=1", "engine.threads=1", "engine=fused")
EPOCHS = 6
SWEPT = ("policy=scheduled,static", "seed=0,1")
GROWING = (
    *SWEPT,
    "engine=fused",
    "engine.threads=1",
    "engine.members=2",
    "controls=[]",
    f"epochs={EPOCHS}",
    "checkpoint.every_epochs=2",
    "telemetry.report=false",
)


def jobs_of(sweep):
    """job.json by what the job sets; attempts that were moved aside are left out."""
    known = json.loads((sweep / "sweep.json").read_text())["jobs"]
    paths = {" ".join(sets): sweep / name / "job.json" for name, sets in known.items()}
    return {sets: json.loads(path.read_text()) for sets, path in paths.items() if path.exists()}


def results(sweep):
    """What each run of a sweep led to, by what it sets."""
    found = {}
    for sets, job in jobs_of(sweep).items():
        run_dir = sweep / job["id"]
        tensors = load_file(run_dir / "checkpoints" / f"agent_epoch_{EPOCHS}.safetensors")
        found[sets] = (what_happened(run_dir), record_of(run_dir)["summary"]["grown"], job["result"], tensors)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    command_line = CommandLine(tmp_path_factory.mktemp("undisturbed"))
    done = command_line.run_here("-m", *GROWING, "hydra.sweep.dir=sweep")
    assert done.code == 0, done.err
    return results(command_line.folder / "sweep")


@pytest.mark.parametrize("launcher", ["basic", "local"])
def test_killed_and_started_again_it_ends_as_if_undisturbed(esper, undisturbed, launcher):
    command = ("-m", *GROWING, f"hydra/launcher={launcher}", "hydra.sweep.dir=sweep")
    sweep = esper.folder / "sweep"
    process = esper.start(*command)
    deadline = time.monotonic() + 60

    def is_amid():
        """One job is done, and another has a checkpoint."""
        done = list(jobs_of(sweep).values()) if (sweep / "sweep.json").exists() else []
        under_way = [sweep / job["id"] for job in done if job["status"] == "running"]
        return len(under_way) < len(done) and any(last_epoch(run_dir) >= 3 for run_dir in under_way)

    while not is_amid():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    before = {sets: job for sets, job in jobs_of(sweep).items() if job["status"] == "finished"}
    assert 0 < len(before) < 4

    done = esper.run_here(*command)
    assert done.code == 0, done.err
    after = jobs_of(sweep)
    assert {sets: after[sets] for sets in before} == before
    assert any(job["attempt"] == 2 for job in after.values())
    assert len([path for path in sweep.iterdir() if path.is_dir()]) == 4
    for sets, (happened, grown, figures, tensors) in results(sweep).items():
        expected = undisturbed[sets]
        assert (happened, grown, figures) == expected[:3]
        assert tensors.keys() == expected[3].keys()
        assert all(tensors[name].equal(expected[3][name]) for name in tensors)


def test_jobs_are_runs_that_know_their_sweep(esper):
    done = esper.run_here("-m", *TINY, "seed=1,2")
    assert done.code == 0, done.err
    (sweep,) = esper.folder.glob("outputs/digits_static/sweep-*")
    records = {sets: record_of(sweep / job["id"]) for sets, job in jobs_of(sweep).items()}
    assert {sets: record["seed"] for sets, record in records.items()} == {"seed=1": 1, "seed=2": 2}
    assert {record["sweep"] for record in records.values()} == {sweep.name.removeprefix("sweep-")}
    assert {record["options"]["debug"] for record in records.values()} == {"smoke"}
    for sets, job in jobs_of(sweep).items():
        grown = records[sets]["summary"]["grown"]
        assert job["result"]["test_accuracy"] == pytest.approx(
            sum(grown["test_accuracy"]) / len(grown["test_accuracy"])
        )
    assert "test_accuracy" in done.out and "epoch 1/2" not in done.out


def test_a_run_that_cannot_be_built_fails_alone(esper):
    # The first job's host has no such position: known only once it is built.
    done = esper.run_here("-m", *TINY, "slots.names=[nowhere],[early]", "hydra.sweep.dir=sweep")
    assert done.code == 1
    bad, good = jobs_of(esper.folder / "sweep").values()
    assert (bad["status"], good["status"]) == ("failed", "finished")
    assert bad["error"].startswith("slots.names: ")
    assert "slots.names: " in done.err and "Traceback" not in done.err and bad["id"] in done.err
    log = (esper.folder / "sweep" / bad["id"] / "job.log").read_text()
    assert log.startswith("error: slots.names: ")


def test_what_is_half_there_is_made_whole(esper):
    command = ("-m", *TINY, "seed=1,2", "hydra.sweep.dir=sweep")
    assert esper.run_here(*command).code == 0
    first, second = (esper.folder / "sweep" / job["id"] for job in jobs_of(esper.folder / "sweep").values())
    (first / "job.json").unlink()  # killed between the end of the run and its being noted
    (second / "job.json").write_text((second / "job.json").read_text().replace('"finished"', '"running"'))
    (second / "run.json").unlink()  # killed before there was a run
    finished_at = record_of(first)["finished_at"]
    done = esper.run_here(*command)
    assert done.code == 0, done.err
    assert record_of(first)["finished_at"] == finished_at
    assert {job["status"] for job in jobs_of(esper.folder / "sweep").values()} == {"finished"}


def test_a_run_that_another_process_resumes_is_left_to_it(esper, monkeypatch):
    monkeypatch.setattr("esper.sweep.sweeper.DYING_S", 0.0)
    command = ("-m", *TINY, "seed=1,2", "hydra.sweep.dir=sweep", "rerun=all")
    assert esper.run_here(*command).code == 0
    busy = next(iter(jobs_of(esper.folder / "sweep").values()))
    with RunLock(esper.folder / "sweep" / busy["id"]):
        done = esper.run_here(*command)
    assert done.code == 1
    assert f"{busy['id']} is left to process" in done.out
    assert next(iter(jobs_of(esper.folder / "sweep").values())) == busy


def test_ctrl_c_saves_what_runs_and_starts_nothing_else(esper):
    long = (
        "policy=static",
        "engine.members=1",
        "engine=fused",
        "engine.threads=1",
        "epochs=5000",
        "telemetry.report=false",
    )
    sweep = esper.folder / "sweep"
    process = esper.start("-m", *long, "seed=1,2,3", "hydra/launcher=local", "hydra.sweep.dir=sweep")
    deadline = time.monotonic() + 60
    while sum(last_epoch(run.parent) >= 1 for run in sweep.glob("*/run.json")) < 2:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    second = esper.run_here("-m", *long, "seed=1,2,3", "hydra.sweep.dir=sweep")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "once more: at once" in out and "Traceback" not in out + err
    assert "2 interrupted, 1 new" in out and "the same command goes on" in out
    for job in jobs_of(sweep).values():
        epoch = record_of(sweep / job["id"])["epoch"]
        assert (sweep / job["id"] / "checkpoints" / f"agent_epoch_{epoch}.json").exists()
    assert second.code == 2
    assert f"process {process.pid} on" in second.err and len(second.err.splitlines()) <= 2


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["rerun=all"], "add -m"),
        (["--dry-run"], "add -m"),
        (["-m", "seed=1,2", "rerun=fail"], "did you mean failed?"),
        (["-m", "seed=1,2", "zip=seed"], "zip=[seed,policy]"),
        (["-m", "seed=1,2", "epochs=3", "zip=[seed,epochs]"], "epochs has no values to go through"),
        (["-m", "seed=1,2", "epochs=1,2,3", "zip=[seed,epochs]"], "seed has 2, epochs has 3"),
        (["-m", "policy=static,heuristc"], "did you mean policy=heuristic?"),
        (["-m", "hydra/launcher=locl", "seed=1,2"], "did you mean hydra/launcher=local?"),
        (["-m", "seed=1,2", "hydra.sweep.dir=/dev/null/mine"], "cannot be made here"),
    ],
)
def test_bad_input_is_answered_in_short_and_leaves_nothing_behind(esper, arguments, wanted):
    done = esper.run_here(*arguments)
    assert (done.code, done.out) == (2, "")
    assert wanted in done.err and done.err.startswith("error: ")
    assert len(done.err.splitlines()) <= 2
    assert list(esper.folder.iterdir()) == []


def test_a_folder_of_another_sweep_is_refused(esper):
    dry = ("-m", "seed=1,2", "hydra.sweep.dir=sweep")
    assert esper.run_here(*dry, *TINY).code == 0
    before = sorted(esper.folder.rglob("*"))
    done = esper.run_here(*dry, *TINY, "epochs=3")
    assert done.code == 2
    assert "epochs is 2 there, and 3 here" in done.err and len(done.err.splitlines()) <= 2
    assert sorted(esper.folder.rglob("*")) == before


def test_a_reader_that_goes_away_costs_nothing(esper):
    process = esper.start("-m", *TINY, "seed=1,2", "hydra.sweep.dir=sweep")
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert (process.wait(timeout=60), errors) == (0, "")
    assert [job["status"] for job in jobs_of(esper.folder / "sweep").values()] == ["finished"] * 2

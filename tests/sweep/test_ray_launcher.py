"""hydra/launcher=ray on a real Ray: one for all tests, and one that a sweep starts for itself."""

import os
import signal
import sys

import pytest

from esper.sweep.jobs import FINISHED, INTERRUPTED, KILLED
from esper.sweep.ray_launcher import SERVE
from tests.e2e.conftest import CommandLine, last_epoch, lines
from tests.sweep.conftest import ROOT, TIMEOUT_S, Marked, jobs_of, until

pytestmark = pytest.mark.alone  # it starts several processes, and kills some at a moment
TOLD = str(ROOT / "tests" / "sweep" / "told.py")
EPOCHS = 20
GROWING = (
    "policy=static",
    f"epochs={EPOCHS}",
    "engine.members=2",
    "engine.threads=1",
    "checkpoint.every_epochs=1",
    "telemetry.report=false",
)
SWEEP = ("-m", "hydra/launcher=ray", "hydra.sweep.dir=sweep", "seed=0,1", *GROWING)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The environment of processes that are to use a Ray of two processors that runs already."""
    served = Marked(tmp_path_factory.mktemp("cluster"))
    two_processors = SERVE.replace('"local"', '"local", num_cpus=2')
    server = served.start("-c", two_processors, RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")
    address = server.stdout.readline().strip()
    assert address, server.communicate(timeout=TIMEOUT_S)[1]
    yield {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "disabled"}
    served.end()


@pytest.fixture
def esper(tmp_path):
    return CommandLine(tmp_path)


def test_jobs_see_the_code_the_folder_and_the_threads_of_the_sweep(marked, cluster):
    beside = marked.folder / "beside"
    beside.mkdir()
    (beside / "beside.py").write_text("VALUE = 7")
    settings = ("hydra.launcher.num_cpus=2", "hydra.job.env_copy=[COPIED]")
    arguments = (TOLD, "sweep", "hydra/launcher=ray", "y=look", "x=1,2", *settings)
    code, out, err = marked.run(*arguments, path=[str(beside)], COPIED="yes", **cluster)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) < 10, out
    first, second = (job.record()["result"] for job in jobs_of(marked.folder / "sweep"))
    assert first.pop("pid") != second.pop("pid")  # a process of its own for each job
    assert (
        first
        == second
        == {
            "folder": str(marked.folder),
            "threads": "2",
            "beside": 7,
            "copied": "yes",
            "uploaded": "{}",
        }
    )


def test_what_is_stopped_was_interrupted_and_a_second_ctrl_c_ends_all_at_once(marked, cluster):
    process = marked.start(TOLD, "sweep", "hydra/launcher=ray", "y=wait", "x=1,2,3", **cluster)
    sweep = marked.folder / "sweep"
    until(lambda: len(list(sweep.glob("*/here"))) == 2, "two jobs wait")
    first, deaf = sorted(jobs_of(sweep), key=lambda job: job.record()["overrides"])
    os.kill(first.record()["pid"], signal.SIGTERM)  # as Ray does
    until(lambda: first.status() == INTERRUPTED, "the job ends")
    until(lambda: len(list(sweep.glob("*/here"))) == 3, "the third job waits")
    (third,) = [job for job in jobs_of(sweep) if job.folder not in (first.folder, deaf.folder)]
    process.send_signal(signal.SIGINT)
    until(lambda: third.status() == INTERRUPTED, "the job that listens ends")
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    until(lambda: deaf.status() in (INTERRUPTED, KILLED), "the job that does not ends, too", timeout_s=10)
    assert "Traceback" not in process.stderr.read()


def test_a_sweep_killed_under_a_ray_of_its_own_is_finished_by_a_cluster(marked, cluster, esper):
    process = marked.start("-m", "esper.run", *SWEEP)
    sweep = marked.folder / "sweep"
    until(lambda: any(last_epoch(job.folder) >= 3 for job in jobs_of(sweep)), "a job has come to epoch 3")
    assert len(marked.alive()) > 3
    process.kill()
    process.communicate(timeout=TIMEOUT_S)
    until(lambda: not marked.alive(), "all that it had started is gone", timeout_s=15)
    before = {job.folder.name: job.record() for job in jobs_of(sweep)}
    assert {KILLED, INTERRUPTED} & {job.status() for job in jobs_of(sweep)}

    code, _, err = marked.run("-m", "esper.run", *SWEEP, **cluster)
    assert (code, err) == (0, "")
    after = {job.folder.name: job.record() for job in jobs_of(sweep)}
    assert [record["status"] for record in after.values()] == 2 * [FINISHED]
    for name, record in after.items():
        was = before.get(name, {"attempt": 0})
        assert record == was if was.get("status") == FINISHED else record["attempt"] == was["attempt"] + 1
        epochs = [line["epoch"] for line in lines(sweep / name / "metrics.jsonl")]
        assert epochs == list(range(EPOCHS + 1))  # none twice, none missing
    again = esper.run_here(*SWEEP)
    assert again.code == 0
    assert "2 finished; 0 to run" in again.out


@pytest.mark.slow
def test_where_no_ray_answers_it_says_so_in_time(esper):
    nowhere = ("hydra.launcher.address=127.0.0.1:9", "hydra.launcher.timeout_s=2")
    done = esper.run_here(*SWEEP, *nowhere)
    assert done.code == 2
    assert done.err.startswith("error: hydra.launcher.address=127.0.0.1:9: no Ray answers there within 2 s\n")
    assert len(done.err.splitlines()) == 2


@pytest.mark.slow
def test_without_ray_it_says_what_to_install(esper, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    done = esper.run_here(*SWEEP)
    assert done.code == 2
    assert "pip install 'esper[ray]'" in done.err
    assert len(done.err.splitlines()) == 2


@pytest.mark.sampled(1)
@pytest.mark.parametrize("setting", ["num_cpus=0", "num_gpus=-1", "timeout_s=nan"])
def test_settings_that_make_no_sense_are_refused(esper, setting):
    done = esper.run_here(*SWEEP, f"hydra.launcher.{setting}")
    assert done.code == 2
    assert f"hydra.launcher.{setting}: expected " in done.err

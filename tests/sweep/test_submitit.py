"""hydra/launcher=submitit_local: what Slurm does with a sweep's jobs, on this machine."""

import os
import signal

from esper.sweep.jobs import FINISHED, INTERRUPTED, KILLED, RUNNING
from tests.e2e.conftest import last_epoch, lines
from tests.sweep.conftest import TIMEOUT_S, jobs_of, until

EPOCHS = 20
SWEEP = (
    *("-m", "esper.run", "-m", "hydra/launcher=submitit_local", "hydra.sweep.dir=sweep", "seed=0,1"),
    *("policy=static", f"epochs={EPOCHS}", "engine.members=2", "engine.threads=1"),
    *("checkpoint.every_epochs=1", "telemetry.report=false"),
)


def is_whole(job):
    """Every epoch once."""
    return [line["epoch"] for line in lines(job.folder / "metrics.jsonl")] == list(range(EPOCHS + 1))


def test_what_is_lost_with_its_machine_is_finished_by_the_same_command(marked):
    sweep = marked.folder / "sweep"
    process = marked.start(*SWEEP)
    until(lambda: [last_epoch(job.folder) >= 2 for job in jobs_of(sweep)] == [True, True], "both jobs have begun")
    process.kill()  # jobs outlive the sweep, as they do under Slurm
    lost, _ = jobs_of(sweep)
    os.kill(lost.record()["pid"], signal.SIGKILL)
    process.communicate(timeout=TIMEOUT_S)
    until(lambda: RUNNING not in [job.status() for job in jobs_of(sweep)], "the other job ends")
    assert [job.status() for job in jobs_of(sweep)] == [KILLED, FINISHED]
    until(lambda: not marked.alive(), "all processes are gone", timeout_s=10)

    code, out, err = marked.run(*SWEEP)
    assert (code, err) == (0, ""), out
    assert "1 to run" in out
    assert [job.record()["attempt"] for job in jobs_of(sweep)] == [2, 1]
    assert all(is_whole(job) for job in jobs_of(sweep))


def test_a_job_that_the_scheduler_takes_back_goes_on_by_itself(marked):
    process = marked.start(*(argument.replace("seed=0,1", "seed=0") for argument in SWEEP))
    sweep = marked.folder / "sweep"
    until(lambda: any(last_epoch(job.folder) >= 2 for job in jobs_of(sweep)), "the job has begun")
    (job,) = jobs_of(sweep)
    os.kill(job.record()["pid"], signal.SIGUSR2)  # as Slurm does before it preempts a job, or its time is up
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, err) == (0, ""), out
    assert INTERRUPTED in out
    assert job.record()["attempt"] == 2
    assert is_whole(job)

"""Runs, from their folders to their ends: one by itself, or several that train as one program."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper.build import grow, prepare
from esper.checkpoint import CheckpointManager
from esper.config.checks import in_short
from esper.config.composing import read_config, to_plain
from esper.config.root import RunSchema
from esper.engine.together import scores_on_test, start_together, step_together
from esper.errors import EsperError
from esper.nissa import print_summary
from esper.rundir import CONFIG_FILE, RUN_FILE, RunDirectory
from esper.running import Run
from esper.stopping import StopRequest
from esper.tasks import Task

FAILED = 1
BAD_INPUT = 2


@dataclass(slots=True)
class Job:
    """A run to be brought to its end, and what went wrong with it."""

    folder: RunDirectory
    config: RunSchema
    is_new: bool
    run: Run | None = None
    error: Exception | None = None

    @property
    def is_bad_input(self) -> bool:
        """Whether it could not even be built, for a reason that its user can mend."""
        is_of_disk = isinstance(self.error, OSError) or isinstance(getattr(self.error, "__cause__", None), OSError)
        return self.run is None and isinstance(self.error, EsperError) and not is_of_disk


@dataclass(frozen=True, slots=True)
class Planned:
    """A run that is wanted: its configuration, its folder, and the words of the command line for it."""

    config: RunSchema
    path: Path
    overrides: list[str]
    options: Mapping[str, str] | None = None
    sweep: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: an exit code, and what went wrong."""

    code: int
    error: str | None = None


def start(
    config: RunSchema,
    path: Path,
    overrides: list[str],
    options: Mapping[str, str] | None = None,
    sweep: str | None = None,
) -> int:
    """A new run in this folder. Returns the exit code; raises EsperError on bad input, and leaves no folder then.

    options: group -> the option that was chosen, where that is known. sweep: the sweep that the run is a job of.
    """
    with RunDirectory.create(path, to_plain(config), overrides, options, sweep) as folder:
        return _alone(Job(folder, config, is_new=True))


def resume(path: Path, overrides: list[str]) -> int:
    """Continue the run in this folder. Returns the exit code; raises EsperError on bad input."""
    with RunDirectory.reopen(path) as folder:
        config = read_config(path / CONFIG_FILE, overrides)
        if folder.record["status"] == "finished":
            print(f"{path}: this run has finished, after epoch {folder.record['epoch']}")
            return 0
        return _alone(Job(folder, config, is_new=False))


def run_together(planned: Sequence[Planned]) -> list[Outcome]:
    """Bring runs to their ends as one program; each folder's run begins, or goes on from its checkpoint.

    They may differ in what members can carry (`esper.fusable.CARRIED`), and must stand at the same epoch of the same
    engine. One that goes wrong does not stop the others.
    """
    outcomes: dict[int, Outcome] = {}
    jobs: dict[int, Job] = {}
    with ExitStack() as locks:
        for number, plan in enumerate(planned):
            try:
                is_new = not (plan.path / RUN_FILE).exists()
                folder = locks.enter_context(_folder(plan, is_new))
                jobs[number] = Job(folder, plan.config, is_new)
            except EsperError as error:
                outcomes[number] = Outcome(BAD_INPUT, in_short(str(error)))
        codes = _see_through(list(jobs.values()), is_shown=False)
        for (number, job), code in zip(jobs.items(), codes, strict=True):
            outcomes[number] = Outcome(code, None if job.error is None else _told(job.error))
    return [outcomes[number] for number in range(len(planned))]


def _folder(plan: Planned, is_new: bool) -> RunDirectory:
    if not is_new:
        return RunDirectory.reopen(plan.path)
    return RunDirectory.create(plan.path, to_plain(plan.config), plan.overrides, plan.options, plan.sweep)


def _alone(job: Job) -> int:
    """Bring the run to whatever end, and say which. Raises EsperError on bad input."""
    (code,) = _see_through([job], is_shown=True)
    run, path = job.run, job.folder.path
    if job.error is not None:
        if job.is_bad_input:
            raise job.error
        if not isinstance(job.error, (EsperError, OSError)):
            traceback.print_exception(job.error)
            return code
        kept = f" from {run.checkpoints.path(run.saved_at).stem}" if run is not None and run.saved_at >= 0 else ""
        print(f"error: {_told(job.error)}\n  to continue{kept}: python -m esper.run resume={path}", file=sys.stderr)
    elif run is not None and run.summary is not None:
        if job.config.telemetry.console != "off":
            with _unread_output_is_none():
                print_summary(run.summary, path, run.report)
    else:
        with _unread_output_is_none():
            print(f"interrupted after {_place(job.folder.record)}; to continue:")
            print(f"  python -m esper.run resume={path}")
    return code


# ---- from beginning to end


def _see_through(jobs: Sequence[Job], is_shown: bool) -> list[int]:
    """Build and drive all of them, and let each run.json say how it ended; their exit codes."""
    with StopRequest() as stop:
        runs: list[Run] = []
        try:
            runs = _build(jobs)
            for run in runs:
                with run.guarded():
                    run.open(is_shown)
            _drive(runs, stop)
        except KeyboardInterrupt:
            stop.signal = stop.signal or signal.SIGINT
        except Exception as error:
            for run in runs:
                run.error = run.error or error
        return [_end(job, stop) for job in jobs]


def _build(jobs: Sequence[Job]) -> list[Run]:
    """The runs of those jobs that can be built, in one population; the others have their error."""
    ready = list(jobs)
    while ready:
        loaded: dict[str, Task] = {}
        prepared = []
        for job in ready:
            with _blamed([job]):
                prepared.append(prepare(job.config, job.folder.record["engine"], loaded))
        runs: list[Run | None] = []
        if len(prepared) == len(ready):
            with _blamed(ready):
                grown = grow(prepared, ready[0].folder.record["engine"])
            for job in ready if ready[0].error is None else ():
                with _blamed([job]):
                    manager = CheckpointManager(job.folder.path)
                    checkpoint = manager.load_latest_agent() if not job.is_new and manager.exists() else None
                    job.run = Run(job.folder, job.config, grown[len(runs)], checkpoint)
                runs.append(job.run)
        if all(job.error is None for job in ready):
            return [run for run in runs if run is not None]
        ready = [job for job in ready if job.error is None]  # the others are built anew without them
    return []


@contextmanager
def _blamed(jobs: Sequence[Job]) -> Iterator[None]:
    """Inside, what goes wrong is these jobs' error."""
    try:
        yield
    except Exception as error:
        for job in jobs:
            job.error, job.run = error, None


def _drive(runs: Sequence[Run], stop: StopRequest) -> None:
    """Learn, then grow, until the last epoch or until asked to stop."""
    for run in runs:
        with run.guarded():
            run.learn(stop)
    if not stop:
        _grow(runs, stop)
    for run in runs:
        with run.guarded():
            run.save()


def _grow(runs: Sequence[Run], stop: StopRequest) -> None:
    """Train and act epoch by epoch, all runs as one program, as long as there is one to go on with."""
    growths = [run.growth for run in runs]
    if all(run.error for run in runs):
        return
    started = time.perf_counter()
    start_together(growths)
    for run in runs:
        with run.guarded():
            run.begin(time.perf_counter() - started)
    while not (growths[0].done or stop or all(run.error for run in runs)):
        started = time.perf_counter()
        results = step_together(growths, [run.decide() for run in runs])
        wall_s = time.perf_counter() - started
        for run, (reports, events) in zip(runs, results, strict=True):
            with run.guarded():
                run.take(reports, events, wall_s)
    if growths[0].done:
        for run, scores in zip(runs, scores_on_test(growths), strict=True):
            with run.guarded():
                run.finish(scores)


def _end(job: Job, stop: StopRequest) -> int:
    """Let run.json say how the job ended; its exit code."""
    run, folder = job.run, job.folder
    if run is None:
        is_bad_input = job.is_bad_input
        if is_bad_input and job.is_new:
            folder.discard()
        elif job.error is None:
            folder.finish("interrupted")
        else:
            folder.fail(_told(job.error))
        return BAD_INPUT if is_bad_input else FAILED if job.error else stop.code
    with run.guarded():
        run.close("failed" if run.error else "finished" if run.summary else "interrupted")
    if run.error:
        job.error = run.error
        folder.fail(_told(run.error))
        return FAILED
    if run.summary is None:
        folder.finish("interrupted")
        return stop.code
    return 0


# ---- what is said of it


def _told(error: Exception) -> str:
    """What went wrong, for run.json and the terminal."""
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}; what was saved earlier is intact"
    return in_short(str(error)) if isinstance(error, EsperError) else f"{type(error).__name__}: {error}"


def _place(record: dict[str, Any]) -> str:
    """How far a run has come, in words."""
    if record["update"] < record["max_updates"] and record["epoch"] == 0:
        return f"update {record['update']} of {record['max_updates']}"
    return f"epoch {record['epoch']} of {record['max_epochs']}"


@contextmanager
def _unread_output_is_none() -> Iterator[None]:
    """Inside, it costs nothing that nobody reads the output any more, as after `| head`."""
    try:
        yield
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # rich would end the process
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

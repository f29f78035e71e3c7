"""Runs from being built to whatever end: one by itself, or several that train as one program."""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import mode

from esper.build import grow, prepare
from esper.checkpoint import Checkpoint
from esper.config.root import RunSchema
from esper.distributed import ranks
from esper.engine.population import Scores
from esper.engine.together import scores_on_test, start_together, step_together
from esper.errors import EsperError, RunError
from esper.leyline import EpochReport, TelemetryEvent
from esper.printing import in_short
from esper.rundir import RunDirectory
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
    checkpoint: Checkpoint | None = None  # that it goes on from
    run: Run | None = None
    error: Exception | None = None

    @property
    def is_bad_input(self) -> bool:
        """Whether it could not even be built, for a reason that its user can mend."""
        is_of_disk = isinstance(self.error, OSError) or isinstance(getattr(self.error, "__cause__", None), OSError)
        return self.run is None and isinstance(self.error, EsperError) and not is_of_disk


def see_through(jobs: Sequence[Job], is_shown: bool) -> list[int]:
    """Build and drive all of them, and let each run.json say how it ended; their exit codes."""
    with StopRequest(ranks()) as stop:
        runs: list[Run] = []
        try:
            runs = _build(jobs)
            for job in jobs:
                job.checkpoint = None  # its tensors are the run's own by now
            for run in runs:
                with run.guarded():
                    run.open(is_shown, together=len(runs))
            if runs:  # else other ranks, if there are any, are not that far
                drive(runs, stop)
        except KeyboardInterrupt:
            stop.signal = stop.signal or signal.SIGINT
        except Exception as error:
            for run in runs:
                run.error = run.error or error
        return [_end(job, stop) for job in jobs]


def _build(jobs: Sequence[Job]) -> list[Run]:
    """The runs of those jobs that can be built, in one population; the others have their error."""
    ready = list(jobs)
    loaded: dict[str, Task] = {}
    while ready:
        prepared = []
        for job in ready:
            with _blamed([job]):
                prepared.append(prepare(job.config, job.folder.record["engine"], loaded, ranks()))
        if len(prepared) == len(ready):
            with _blamed(ready):
                grown = grow(prepared, ready[0].folder.record["engine"])
            if all(job.error is None for job in ready):
                for job, part in zip(ready, grown, strict=True):
                    with _blamed([job]):
                        ranks().broadcast(job.checkpoint)
                        job.run = Run(job.folder, job.config, part, job.checkpoint)
                _check_places(ready)
        if all(job.error is None for job in ready):
            return [job.run for job in ready if job.run is not None]
        ready = [job for job in ready if job.error is None]  # the others are built anew without them
    return []


def _check_places(jobs: Sequence[Job]) -> None:
    """Leave out those that stand at another epoch than most, as after the loss of a checkpoint."""
    built = [(job, job.run.growth.epoch) for job in jobs if job.run is not None]
    most = mode(epoch for _, epoch in built) if built else 0
    for job, epoch in built:
        if epoch != most:
            job.run = None
            job.error = RunError(
                f"{job.folder.path}: its checkpoint is of epoch {epoch}, and those beside it are of {most}\n"
                f"  to continue it alone: python -m esper.run resume={job.folder.path}"
            )


@contextmanager
def _blamed(jobs: Sequence[Job]) -> Iterator[None]:
    """Inside, what goes wrong is these jobs' error."""
    try:
        yield
    except Exception as error:
        for job in jobs:
            job.error, job.run = error, None


def drive(runs: Sequence[Run], stop: StopRequest) -> None:
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
    if all(run.error for run in runs):
        return
    started = time.perf_counter()
    _report(runs)
    for run in runs:
        with run.guarded():
            run.begin(time.perf_counter() - started)
    while not (runs[0].growth.done or stop or all(run.error for run in runs)):
        started = time.perf_counter()
        results = _step(runs)
        wall_s = time.perf_counter() - started
        for run, (reports, events) in zip(runs, results, strict=True):
            with run.guarded():
                run.take(reports, events, wall_s)
    if runs[0].growth.done:
        for run, scores in zip(runs, _test(runs), strict=True):
            with run.guarded():
                run.finish(scores)


# Of a run by itself this process may train some members only, of runs that train together all of them.


def _report(runs: Sequence[Run]) -> None:
    if len(runs) == 1:
        runs[0].growth.reports()
    else:
        start_together([run.members for run in runs])


def _step(runs: Sequence[Run]) -> list[tuple[list[EpochReport], list[TelemetryEvent]]]:
    actions = [run.decide() for run in runs]
    if len(runs) == 1:
        return [runs[0].growth.step(actions[0])]
    return step_together([run.members for run in runs], actions)


def _test(runs: Sequence[Run]) -> list[Scores]:
    return [runs[0].growth.test()] if len(runs) == 1 else scores_on_test([run.members for run in runs])


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
            folder.fail(told(job.error))
        return BAD_INPUT if is_bad_input else FAILED if job.error else stop.code
    with run.guarded():
        run.close("failed" if run.error else "finished" if run.summary else "interrupted")
        if run.summary is None and run.error is None:
            folder.finish("interrupted")
    if run.error:
        job.error = run.error
        folder.fail(told(run.error))
        return FAILED
    return stop.code if run.summary is None else 0


def told(error: Exception) -> str:
    """What went wrong, for run.json and the terminal."""
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}; what was saved earlier is intact"
    return in_short(str(error)) if isinstance(error, EsperError) else f"{type(error).__name__}: {error}"

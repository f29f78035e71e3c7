"""Runs by their folders: begin, continue, and say how they ended."""

import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper.config.composing import read_config, to_plain
from esper.config.root import RunSchema
from esper.course import BAD_INPUT, Job, see_through, told
from esper.distributed import ranks
from esper.errors import EsperError
from esper.files.records import CONFIG_FILE, RUN_FILE
from esper.nissa import print_summary
from esper.planned import Planned
from esper.rundir import RunDirectory


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: an exit code, what run.json holds, and what went wrong."""

    code: int
    record: Mapping[str, Any]
    error: Exception | None = None


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

    They may differ in what members can carry (`esper.planned.CARRIED`), and must stand at the same epoch of the same
    engine. One that goes wrong does not stop the others.
    """
    outcomes: dict[int, Outcome] = {}
    jobs: dict[int, Job] = {}
    with ExitStack() as locks:
        for number, plan in enumerate(planned):
            try:
                is_new = not (plan.path / RUN_FILE).exists()
                folder = locks.enter_context(_folder(plan, is_new))
            except EsperError as error:
                outcomes[number] = Outcome(BAD_INPUT, {}, error)
                continue
            if folder.record["status"] == "finished":
                outcomes[number] = Outcome(0, folder.record)
            else:
                jobs[number] = Job(folder, plan.config, is_new)
        codes = see_through(list(jobs.values()), is_shown=False)
        for (number, job), code in zip(jobs.items(), codes, strict=True):
            outcomes[number] = Outcome(code, job.folder.record, job.error)
    return [outcomes[number] for number in range(len(planned))]


def _folder(plan: Planned, is_new: bool) -> RunDirectory:
    if not is_new:
        return RunDirectory.reopen(plan.path)
    return RunDirectory.create(plan.path, to_plain(plan.config), plan.overrides, plan.options, plan.sweep)


def _alone(job: Job) -> int:
    """Bring the run to whatever end, and say which. Raises EsperError on bad input."""
    ranks().broadcast((job.config, job.folder.record["engine"]))  # to those that follow: esper.following
    (code,) = see_through([job], is_shown=True)
    run, path = job.run, job.folder.path
    if job.error is not None:
        if job.is_bad_input:
            raise job.error
        if not isinstance(job.error, (EsperError, OSError)):
            traceback.print_exception(job.error)
            return code
        kept = f" from {run.checkpoints.path(run.saved_at).stem}" if run is not None and run.saved_at >= 0 else ""
        print(f"error: {told(job.error)}\n  to continue{kept}: python -m esper.run resume={path}", file=sys.stderr)
    elif run is not None and run.summary is not None:
        if job.config.telemetry.console != "off":
            with _unread_output_is_none():
                print_summary(run.summary, path, run.report)
    else:
        with _unread_output_is_none():
            print(f"interrupted after {_place(job.folder.record)}; to continue:")
            print(f"  python -m esper.run resume={path}")
    return code


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

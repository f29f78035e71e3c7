"""Runs by their folders: begin, continue, and say how they ended."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper.checkpoint import Checkpoint, restoring
from esper.config.composing import read_config, to_plain
from esper.config.root import RunSchema
from esper.course import BAD_INPUT, Job, see_through, told
from esper.distributed import ranks
from esper.errors import DivergedError, EsperError
from esper.files.marks import holds_run
from esper.files.records import CONFIG_FILE
from esper.nissa import print_summary
from esper.planned import Planned
from esper.printing import say, say_text, say_traceback
from esper.records import CHECKPOINT
from esper.resuming import configuration, differences, refuse
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
        if folder.record["status"] == "finished":
            read_config(path / CONFIG_FILE, overrides)
            say(f"{path}: this run has finished, after epoch {folder.record['epoch']}")
            return 0
        checkpoint = _last_checkpoint(folder)
        config = configuration(path, overrides, checkpoint)
        return _alone(Job(folder, config, is_new=False, checkpoint=checkpoint))


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
                is_new = not holds_run(plan.path)
                folder = locks.enter_context(_folder(plan, is_new))
                is_finished = folder.record["status"] == "finished"
                checkpoint = None if is_new or is_finished else _last_checkpoint(folder)
                if checkpoint:
                    refuse(differences(plan.config, checkpoint), checkpoint, plan.path)
            except EsperError as error:
                outcomes[number] = Outcome(BAD_INPUT, {}, error)
                continue
            if is_finished:
                outcomes[number] = Outcome(0, folder.record)
            else:
                jobs[number] = Job(folder, plan.config, is_new, checkpoint)
        codes = see_through(list(jobs.values()), is_shown=False)
        for (number, job), code in zip(jobs.items(), codes, strict=True):
            outcomes[number] = Outcome(code, job.folder.record, job.error)
    return [outcomes[number] for number in range(len(planned))]


def _folder(plan: Planned, is_new: bool) -> RunDirectory:
    if not is_new:
        return RunDirectory.reopen(plan.path)
    return RunDirectory.create(plan.path, to_plain(plan.config), plan.overrides, plan.options, plan.sweep)


def _last_checkpoint(folder: RunDirectory) -> Checkpoint | None:
    """What the run goes on from, on the engine that it was made by; None: it begins again."""
    checkpoint = folder.last_checkpoint()
    if checkpoint:
        with restoring(checkpoint, CHECKPOINT):
            folder.record["engine"] = checkpoint.metadata["engine"]
    return checkpoint


def _alone(job: Job) -> int:
    """Bring the run to whatever end, and say which. Raises EsperError on bad input."""
    ranks().broadcast((job.config, job.folder.record["engine"]))  # to those that follow: esper.following
    (code,) = see_through([job], is_shown=True)
    run, path = job.run, job.folder.path
    if job.error is not None:
        if job.is_bad_input:
            raise job.error
        if isinstance(job.error, DivergedError):
            say_text(f"error: {told(job.error)}", is_error=True)
            return code
        if not isinstance(job.error, (EsperError, OSError)):
            say_traceback(job.error)
            return code
        kept = f" from {run.checkpoints.path(run.saved_at).stem}" if run is not None and run.saved_at >= 0 else ""
        say_text(f"error: {told(job.error)}\n  to continue{kept}: python -m esper.run resume={path}", is_error=True)
    elif run is not None and run.summary is not None:
        if job.config.telemetry.console != "off":
            print_summary(run.summary, path, run.report)
        if note := job.config.policy.note:
            say(note, is_error=True)
    else:
        say(f"interrupted after {_place(job.folder.record)}; to continue:", f"  python -m esper.run resume={path}")
    return code


def _place(record: dict[str, Any]) -> str:
    """How far a run has come, in words."""
    if record["update"] < record["max_updates"] and record["epoch"] == 0:
        return f"update {record['update']} of {record['max_updates']}"
    return f"epoch {record['epoch']} of {record['max_epochs']}"

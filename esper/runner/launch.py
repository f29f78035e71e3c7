"""Runs by their folders: start, resume, run several as one program, and say how they ended."""

import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper.checkpoint import Checkpoint, restoring
from esper.config.composing import to_plain
from esper.errors import DivergedError, EsperError, ExitCode, RunError
from esper.factories import as_own_failure
from esper.files.marks import holds_run
from esper.nissa import print_summary
from esper.printing import error_text, say, say_text, say_traceback
from esper.runner.building import RunRequest, build_runs
from esper.runner.directory import RunDirectory
from esper.runner.distributed import ranks
from esper.runner.finished import tell_if_finished
from esper.runner.loop import fit, nothing
from esper.runner.records import CHECKPOINT
from esper.runner.resuming import configuration, differences, refuse
from esper.runner.run import Run
from esper.runner.spec import RunSpec
from esper.runner.stop import StopRequest


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended: an exit code, what run.json holds, and what went wrong."""

    code: int
    record: Mapping[str, Any]
    error: Exception | None = None


def start(spec: RunSpec) -> int:
    """A new run in its folder. Returns the exit code; raises EsperError on bad input, and leaves no folder then."""
    with _create(spec) as folder:
        return _run_alone(RunRequest(folder, spec.config, is_new=True))


def launch(spec: RunSpec) -> None:
    """A new run in its folder, for a program that goes on afterwards: what it failed by is raised.

    A signal that stopped it is passed on once the run is saved. What is shown is what a command line shows.
    Raises: EsperError, RunError for what is none.
    """
    with _create(spec) as folder:
        request = RunRequest(folder, spec.config, is_new=True)
        (code,) = run_to_completion([request], owns_terminal=True)
        if isinstance(request.error, EsperError):
            raise request.error
        if request.error is not None:
            raise RunError(f"{folder.path}: {error_text(request.error)}") from request.error
        _say_last_words(request, code)
    if code:
        signal.raise_signal(code - 128)


def resume(path: Path, overrides: Sequence[str]) -> int:
    """Continue the run in this folder. Returns the exit code; raises EsperError on bad input."""
    with RunDirectory.reopen(path) as folder:
        if tell_if_finished(path, overrides):  # by now
            return ExitCode.DONE
        checkpoint = _last_checkpoint(folder)
        config = configuration(path, overrides, checkpoint)
        return _run_alone(RunRequest(folder, config, is_new=False, checkpoint=checkpoint))


def run_many(specs: Sequence[RunSpec], on_epoch: Callable[[int], None] = nothing) -> list[RunResult]:
    """Bring runs to their ends as one program; each folder's run begins, or goes on from its checkpoint.

    on_epoch: see `fit`.

    They may differ in what members can carry (`esper.runner.spec.PER_MEMBER_KEYS`), and must stand at the same epoch of
    the same engine. One that goes wrong does not stop the others.
    """
    results: dict[int, RunResult] = {}
    requests: dict[int, RunRequest] = {}
    with ExitStack() as locks:
        for number, spec in enumerate(specs):
            try:
                is_new = not holds_run(spec.path)
                folder = locks.enter_context(_create(spec) if is_new else RunDirectory.reopen(spec.path))
                checkpoint = None if is_new or folder.is_finished else _last_checkpoint(folder)
                if checkpoint:
                    refuse(differences(spec.config, checkpoint), checkpoint, spec.path)
            except EsperError as error:
                results[number] = RunResult(ExitCode.BAD_INPUT, {}, error)
                continue
            if folder.is_finished:
                results[number] = RunResult(ExitCode.DONE, folder.record)
            else:
                requests[number] = RunRequest(folder, spec.config, is_new, checkpoint)
        codes = run_to_completion(list(requests.values()), owns_terminal=False, on_epoch=on_epoch)
        for (number, request), code in zip(requests.items(), codes, strict=True):
            results[number] = RunResult(code, request.folder.record, request.error)
    return [results[number] for number in range(len(specs))]


def run_to_completion(
    requests: Sequence[RunRequest], owns_terminal: bool, on_epoch: Callable[[int], None] = nothing
) -> list[int]:
    """Build runs and bring them to whatever end, and let each run.json say which; their exit codes."""
    with StopRequest(ranks(), is_patient=False) as stop:
        runs: list[Run] = []
        try:
            runs = build_runs(requests)
            say(*dict.fromkeys(note for run in runs for note in run.notes), is_error=True)
            for run in runs:
                run.open(owns_terminal, runs_in_program=len(runs))
            if runs:  # else other ranks, if there are any, are not that far
                stop.is_patient = True
                fit(runs, stop, on_epoch)
        except KeyboardInterrupt:
            stop.signal = stop.signal or signal.SIGINT
        except (Exception, SystemExit) as error:
            for run in runs:
                run.error = run.error or as_own_failure(error)
        return [_end(request, stop) for request in requests]


def _run_alone(request: RunRequest) -> int:
    ranks().broadcast((request.config, request.folder.record["engine"]))  # to those that follow: esper.runner.worker
    (code,) = run_to_completion([request], owns_terminal=True)
    return _say_last_words(request, code)


def _create(spec: RunSpec) -> RunDirectory:
    return RunDirectory.create(spec.path, to_plain(spec.config), spec.overrides, spec.options, spec.sweep)


def _last_checkpoint(folder: RunDirectory) -> Checkpoint | None:
    """What the run goes on from, on the engine that it was made by; None: it begins again."""
    checkpoint = folder.last_checkpoint()
    if checkpoint:
        with restoring(checkpoint, CHECKPOINT):
            folder.record["engine"] = checkpoint.metadata["engine"]
    return checkpoint


def _end(request: RunRequest, stop: StopRequest) -> int:
    """Let run.json say how the run ended; its exit code."""
    run, folder = request.run, request.folder
    if run is None:
        if request.is_bad_input and request.is_new:
            folder.discard()
        elif request.error is None:
            folder.interrupt()
        else:
            folder.fail(error_text(request.error))
        return ExitCode.BAD_INPUT if request.is_bad_input else ExitCode.FAILED if request.error else stop.code
    run.close()
    request.error = run.error
    if run.error:
        folder.fail(error_text(run.error))
        return ExitCode.FAILED
    return ExitCode.DONE if folder.is_finished else stop.code


def _say_last_words(request: RunRequest, code: int) -> int:
    """Tell the terminal how the run ended; its exit code. Raises EsperError on bad input."""
    run, path, error = request.run, request.folder.path, request.error
    if error is not None:
        if request.is_bad_input:
            raise error
        if isinstance(error, DivergedError):
            say_text(f"error: {error_text(error)}", is_error=True)
        elif not isinstance(error, (EsperError, OSError)):
            say_traceback(error)
        else:
            kept = f" from {run.checkpoints.newest.stem}" if run is not None and run.checkpoints.newest else ""
            text = f"error: {error_text(error)}\n  to continue{kept}: python -m esper.run resume={path}"
            say_text(text, is_error=True)
    elif run is not None and run.summary is not None:
        if request.config.telemetry.console != "off":
            print_summary(run.summary, path, run.report)
        if note := request.config.policy.note:
            say(note, is_error=True)
    else:
        say(
            f"interrupted after {_progress(request.folder.record, run)}; to continue:",
            f"  python -m esper.run resume={path}",
        )
    return code


def _progress(record: Mapping[str, Any], run: Run | None) -> str:
    """How far a run has come, in words."""
    if run is not None and run.finals.epoch:
        return f"epoch {run.finals.epoch} of its final networks"
    if record["update"] < record["max_updates"] and record["epoch"] == 0:
        return f"update {record['update']} of {record['max_updates']}"
    return f"epoch {record['epoch']} of {record['max_epochs']}"

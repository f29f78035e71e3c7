"""The task function, with a record of what came of it."""

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO, cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import TaskFunction
from omegaconf import DictConfig

from esper.files import open_log
from esper.printing import Output, output, say, say_traceback
from esper.sweep.jobs import FAILED, FINISHED, INTERRUPTED, JobFile


class TrackedTask:
    """Calls the task function, wherever a launcher does, and keeps job.json and job.log in the job's folder.

    A task that raises has failed, and so has one that exits with a code other than 0; a code from 128 on and Ctrl-C
    mean that it was interrupted. Returns what job.json holds. Only an interruption leaves it as an exception: in the
    process that the sweep runs in, which it is to stop, and where a scheduler takes the job back.
    """

    def __init__(self, task: TaskFunction) -> None:
        self.task = task
        self._home = os.getpid()
        self._asked = 0

    def __getstate__(self) -> dict[str, Any]:
        # What @hydra.main decorates goes by the name of the decorated function, which is all that pickle has.
        module = sys.modules.get(getattr(self.task, "__module__", ""))
        named = getattr(module, getattr(self.task, "__qualname__", ""), None)
        is_decorated = getattr(named, "__wrapped__", None) is self.task
        return {"task": named if is_decorated else self.task, "is_decorated": is_decorated}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.task = state["task"].__wrapped__ if state["is_decorated"] else state["task"]
        self._home = 0  # elsewhere, whatever number the process there has
        self._asked = 0

    def stop(self, number: int) -> None:
        """Begin no other job in this process: a signal has asked for it, of which a job that ends may make nothing."""
        self._asked = number

    def go_on(self) -> None:
        """Raises SystemExit where it was asked to stop."""
        if self._asked:
            raise SystemExit(128 + self._asked)

    def __call__(self, config: DictConfig) -> dict[str, Any]:
        self.go_on()
        hydra = HydraConfig.get()
        job = JobFile(Path(hydra.runtime.output_dir))
        attempt = job.begin(list(hydra.overrides.task))
        status, result, error, code = FAILED, None, None, 0
        taken_back: SystemExit | None = None
        with output_to(job.log):
            if attempt > 1:
                say(f"--- attempt {attempt}")
            try:
                result, status = self.task(config), FINISHED
            except KeyboardInterrupt:
                status, error, code = INTERRUPTED, "Ctrl-C", 128 + signal.SIGINT
            except SystemExit as left:
                code = left.code if isinstance(left.code, int) else int(left.code is not None)
                status = FINISHED if code == 0 else INTERRUPTED if code >= 128 else FAILED
                error = None if code == 0 else str(left.__cause__ or f"exit code {left.code}")
                if _is_of_scheduler(left):
                    status, error, taken_back = INTERRUPTED, "taken back by the scheduler", left
            except Exception as raised:
                say_traceback(raised)
                error = f"{type(raised).__name__}: {raised}"
        record = job.end(status, result, error)
        if taken_back:
            raise taken_back
        if status == INTERRUPTED and os.getpid() == self._home:
            raise SystemExit(code)
        return record


def _is_of_scheduler(left: SystemExit) -> bool:
    """Whether submitit's signal handler left the task, having put the job back into the queue."""
    *_, (frame, _) = traceback.walk_tb(left.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith("submitit.")


@contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Inside, all that this process writes to its output and error streams goes to the end of this file."""
    with open_log(path) as log:
        kept = [_diverted(descriptor, log.fileno()) for descriptor in (1, 2)]
        try:
            out = cast(TextIO, Output(log))
            with redirect_stdout(out), redirect_stderr(out):
                yield
        finally:
            for descriptor, copy in zip((1, 2), kept, strict=True):
                if copy is not None:
                    os.dup2(copy, descriptor)
                    os.close(copy)


def _diverted(descriptor: int, target: int) -> int | None:
    """Let a descriptor write to another file; a copy of what it was, or None for one that is closed."""
    for is_error in (False, True):
        output(is_error).flush()
    with suppress(OSError):
        copy = os.dup(descriptor)
        os.dup2(target, descriptor)
        return copy
    return None

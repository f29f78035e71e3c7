"""One job's folder: job.json says how it is going, job.log what it printed."""

import json
import math
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, open_dict

from esper.errors import EsperError, FormatError
from esper.files import (
    FileLock,
    as_unicode,
    fitting,
    make_folder,
    read_object,
    spelled,
    sweep_temporaries,
    utc_now,
    write_atomic,
)
from esper.files.records import JOB, JOB_FILE, JOB_LOG
from esper.sweep.errors import SweepError

# How a job stands. The first three are read off the folder, the others are what job.json says of the last attempt.
NEW = "new"
RUNNING = "running"  # and somebody is at it
KILLED = "killed"  # job.json says "running", and nobody is at it
FINISHED = "finished"
FAILED = "failed"
INTERRUPTED = "interrupted"


class JobFile:
    """job.json, for whoever runs the job: `begin()`, then `end()` with what came of it.

    Between the two the job is locked (by a lock on its log), so that no other process can begin it, and one that was
    killed is known to be. Whatever runs jobs in its own way uses this, and `job_return()` for Hydra.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / JOB_FILE
        self.log = folder / JOB_LOG
        self._lock = FileLock(self.log, is_signed=False)
        self._started = 0.0

    def record(self) -> dict[str, Any]:
        """What job.json holds; nothing where it is missing or cannot be read."""
        try:
            return fitting(read_object(self.path), JOB)[0]
        except (OSError, FormatError):
            return {}

    def status(self) -> str:
        """How the job stands: one of the names above."""
        record = self.record()
        if self._lock.is_taken() or self._other_lock():
            return RUNNING
        if not record:
            return KILLED if self.path.exists() else NEW
        return KILLED if record.get("status") in (RUNNING, None) else str(record["status"])

    def begin(self, overrides: Sequence[str]) -> int:
        """Start an attempt in this process; returns which. Raises SweepError where another process is at the job."""
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            make_folder(self.folder)
            is_free = self._lock.acquire()
        except OSError as error:
            raise SweepError(f"{error.filename or self.folder}: {error.strerror or error}") from error
        if not is_free:
            raise SweepError(f"{self.folder} is in use by {self.holder()}; wait until it ends, or stop it")
        sweep_temporaries(self.folder, JOB_FILE)
        attempt = int(self.record().get("attempt", 0)) + 1
        self._started = time.monotonic()
        write_json(
            self.path,
            {
                "id": self.folder.name,
                "overrides": list(overrides),
                "status": RUNNING,
                "attempt": attempt,
                "started_at": utc_now(),
                "finished_at": None,
                "seconds": None,
                "result": None,
                "error": None,
                "pid": os.getpid(),
                "host": socket.gethostname(),
            },
        )
        return attempt

    def end(self, status: str, result: Any = None, error: str | None = None) -> dict[str, Any]:
        """What came of the attempt: FINISHED, FAILED or INTERRUPTED. Returns what job.json holds from now on.

        result: a flat dict of figures, or one number; anything else is not kept.
        """
        seconds = round(time.monotonic() - self._started, 3) if self._started else None
        ended = {
            "status": status,
            "finished_at": utc_now(),
            "seconds": seconds,
            "result": figures(result),
            "error": error,
        }
        record = self.record() | ended
        write_json(self.path, record)
        self._lock.release()
        return record

    def holder(self) -> str:
        """Who is at the job, in words."""
        if other := self._other_lock():
            return other.holder()
        record = self.record()
        return spelled(record | {"since": record.get("started_at")})

    def set_aside(self) -> Path:
        """Move the folder to the first free JOB.1, JOB.2, ...; returns where it is now."""
        number = 1
        while (aside := self.folder.with_name(f"{self.folder.name}.{number}")).exists():
            number += 1
        return self.folder.rename(aside)

    def _other_lock(self) -> FileLock | None:
        """A lock that the task itself keeps in the folder, and that somebody holds."""
        locks = (FileLock(path) for path in sorted(self.folder.glob("*.lock")))
        return next((lock for lock in locks if lock.is_taken()), None)


def composed_job(context: Any, config: DictConfig, overrides: Sequence[str], number: int) -> DictConfig:
    """The configuration of one job of a launcher, Hydra's part included.

    context: the HydraContext, config: the sweep's configuration, number: the job's place in this launch.
    """
    composed: DictConfig = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(composed):
        composed.hydra.job.id = str(number)
        composed.hydra.job.num = number
    return composed


def job_folder(composed: DictConfig) -> Path:
    """Where a job belongs, by its configuration."""
    return Path(str(composed.hydra.sweep.dir)) / str(composed.hydra.sweep.subdir)


def job_return(composed: DictConfig, record: dict[str, Any]) -> JobReturn:
    """What a launcher hands back to Hydra for a job that came to an end, whichever; record: from `JobFile.end()`."""
    return JobReturn(
        overrides=list(composed.hydra.overrides.task),
        working_dir=os.getcwd(),
        task_name=composed.hydra.job.name,
        status=JobStatus.COMPLETED,
        _return_value=record,
    )


def figures(value: Any) -> dict[str, Any] | None:
    """What a task returned, as far as job.json can hold it: named numbers, texts and truths."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = {"result": value}
    if not isinstance(value, dict):
        return None
    return {
        str(name): None if isinstance(figure, float) and not math.isfinite(figure) else figure
        for name, figure in value.items()
        if figure is None or isinstance(figure, bool | int | float | str)
    }


def write_json(path: Path, value: Any) -> None:
    """Write a file that is wholly there or not at all, whatever happens meanwhile. Raises SweepError."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    try:
        write_atomic(path, as_unicode(text).encode() + b"\n")
    except EsperError as error:
        raise SweepError(str(error)) from error

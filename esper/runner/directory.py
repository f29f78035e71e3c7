"""A run's folder: one owner at a time, its configuration, and run.json that says how it is going."""

import contextlib
import json
import os
import platform
import secrets
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import yaml

from esper import __version__
from esper.checkpoint import Checkpoint, CheckpointManager, RunLock
from esper.errors import CheckpointError, EsperError, FormatError, RunError, RunExistsError
from esper.files import as_unicode, misfit, read_object, sweep_temporaries, utc_now, write_atomic
from esper.files.marks import CONFIG_HEAD, WRITTEN, holds_run, is_of_a_start
from esper.files.records import CONFIG_FILE, LOCK_FILE, RESUMED, RESUMED_NEEDS, RUN_FILE
from esper.printing import say

SCHEMA_VERSION = 1
BEAT_S = 1.0


class RunDirectory:
    """One run's folder, locked for as long as it is open; use as a context manager.

    `record` is what run.json holds.
    """

    def __init__(self, path: Path, record: dict[str, Any], lock: RunLock) -> None:
        self.path = path
        self.record = record
        self._lock = lock
        self._last_beat = time.monotonic()

    @classmethod
    def create(
        cls,
        path: Path,
        config: dict[str, Any],
        overrides: list[str],
        options: Mapping[str, str] | None = None,
        sweep: str | None = None,
        max_epochs: int | None = None,
    ) -> "RunDirectory":
        """Claim a folder that holds no run yet; the run is "queued" from here on. Raises RunError.

        sweep: the name of the sweep that the run is a job of. max_epochs: as configured, unless it is given.
        """
        with contextlib.ExitStack() as on_error:
            lock = on_error.enter_context(RunLock(path))
            if holds_run(path):
                raise RunExistsError(path)
            _refuse_foreign(path)
            sweep_temporaries(path, WRITTEN)
            write_config(path, config)
            record = {
                "schema": SCHEMA_VERSION,
                "id": as_unicode(path.name),
                "uid": secrets.token_hex(8),
                "name": config["name"],
                "sweep": sweep and as_unicode(sweep),
                "status": "queued",
                "seed": config["seed"],
                "epoch": 0,
                "max_epochs": config["epochs"] if max_epochs is None else max_epochs,
                "update": 0,
                "max_updates": 0,
                "started_at": utc_now(),
                "finished_at": None,
                "wall_s": 0.0,
                "overrides": [as_unicode(override) for override in overrides],
                "options": dict(options or {}),
                "engine": None,
                "error": None,
                "summary": None,
            }
            folder = cls(path, record, lock)
            folder.update(**_whereabouts())
            on_error.pop_all()
        return folder

    @classmethod
    def reopen(cls, path: Path) -> "RunDirectory":
        """Take over a run that stopped, and tidy up after it.

        What run.json cannot tell any more, its newest sound checkpoint does. Raises RunError where neither tells, or
        another process has the run.
        """
        with contextlib.ExitStack() as on_error:
            lock = on_error.enter_context(RunLock(path))
            record = _read_record(path)
            sweep_temporaries(path, WRITTEN)
            on_error.pop_all()
        return cls(path, record, lock)

    def last_checkpoint(self) -> Checkpoint | None:
        """The newest sound one; None where none was saved yet. Raises CheckpointError where none is sound."""
        manager = CheckpointManager(self.path)
        return manager.load_latest_agent() if manager.exists() else None

    def start(self, **changes: Any) -> None:
        """The run is under way in this process, for the first time or again."""
        self.update(status="running", finished_at=None, error=None, **_whereabouts(), **changes)

    def beat(self, epoch: int, update: int = 0) -> None:
        """Still alive, at this epoch, after this update of the policy; written at most once a second."""
        self.record |= {"epoch": epoch, "update": update}
        if time.monotonic() - self._last_beat >= BEAT_S:
            self.update()

    @property
    def is_finished(self) -> bool:
        """Whether the run came to its last epoch."""
        return bool(self.record["status"] == "finished")

    def finish(self, summary: dict[str, Any]) -> None:
        """The run came to its last epoch."""
        self._end("finished", summary=summary)

    def interrupt(self) -> None:
        """The run was asked to stop before its last epoch."""
        self._end("interrupted")

    def fail(self, reason: str, **changes: Any) -> None:
        """The run failed. On a full disk, what the lock has kept free is for this."""
        try:
            self._end("failed", error=reason, **changes)
        except EsperError:
            self._lock.give_room()
            with contextlib.suppress(EsperError):
                self._end("failed", error=reason, **changes)

    def _end(self, status: str, **changes: Any) -> None:
        self.update(status=status, finished_at=utc_now(), **changes)

    def discard(self) -> None:
        """Take back a run that never began: its files go, and the folder where nothing else is in it."""
        for name in (CONFIG_FILE, RUN_FILE, LOCK_FILE):
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()
            if not self.path.is_absolute():  # outputs/NAME, made for this run
                os.removedirs(self.path.parent)

    def update(self, **changes: Any) -> None:
        """Write run.json anew with these fields changed. Raises CheckpointError where the disk is full."""
        beat = time.monotonic()
        wall_s = self.record["wall_s"] + beat - self._last_beat
        self._last_beat = beat
        self.record |= changes | {"heartbeat_at": utc_now(), "wall_s": round(wall_s, 3)}
        text = json.dumps(self.record, indent=1, ensure_ascii=False, allow_nan=False)
        write_atomic(self.path / RUN_FILE, as_unicode(text).encode() + b"\n")

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


def write_config(path: Path, config: dict[str, Any]) -> None:
    """Write the run's config.yaml. Raises CheckpointError."""
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    write_atomic(path / CONFIG_FILE, f"{CONFIG_HEAD}{text}".encode())


def _whereabouts() -> dict[str, Any]:
    """Who works on the run, and what its exact result depends on."""
    versions = {"esper": __version__, "python": platform.python_version(), "torch": str(torch.__version__)}
    return {"pid": os.getpid(), "host": socket.gethostname(), "versions": versions}


def _refuse_foreign(path: Path) -> None:
    """Raises RunError where the run would write over files that are not its own."""
    for name in WRITTEN:
        if os.path.lexists(path / name) and not (name == CONFIG_FILE and is_of_a_start(path / name)):
            raise RunError(
                f"{path} already holds a file that a run would write: {name}\n"
                "  give the run a folder of its own, as with hydra.run.dir=outputs/NAME"
            )


def _read_record(path: Path) -> dict[str, Any]:
    """What run.json holds, else what the newest sound checkpoint knows of it. Raises RunError."""
    try:
        return _resumable(read_object(path / RUN_FILE))
    except FileNotFoundError:
        damage = "is missing"
    except (OSError, FormatError) as error:
        damage = f"cannot be read ({getattr(error, 'strerror', None) or error})"
    try:
        checkpoint = CheckpointManager(path).load_latest_agent()
        record = _resumable(checkpoint.metadata.get("run"))
    except (CheckpointError, FormatError) as error:
        raise RunError(f"resume={path}: {RUN_FILE} {damage}, and no checkpoint can stand in for it") from error
    say(f"{path / RUN_FILE} {damage}; written anew from the checkpoint of epoch {checkpoint.epoch}", is_error=True)
    return record | {"status": "interrupted"}


def _resumable(record: Any) -> dict[str, Any]:
    """The record, with None for what is not known yet. Raises FormatError where no run goes on from it."""
    if problem := misfit(record, RESUMED, RESUMED_NEEDS):
        raise FormatError(problem)
    if record["schema"] != SCHEMA_VERSION:
        raise FormatError(f"schema is {record['schema']}; expected {SCHEMA_VERSION}")
    return dict.fromkeys(RESUMED) | record

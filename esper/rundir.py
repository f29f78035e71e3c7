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
from esper.checkpoint import RunLock
from esper.errors import EsperError, RunError
from esper.files import read_object, utc_now, write_atomic
from esper.files.records import CONFIG_FILE, LOCK_FILE, RESUMED, RUN_FILE

SCHEMA_VERSION = 1
BEAT_S = 1.0
# Padded to a whole block, run.json can be rewritten in place when the disk is full, to say that the run failed.
BLOCK_BYTES = 4096


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
    ) -> "RunDirectory":
        """Claim a folder that holds no run yet; the run is "queued" from here on. Raises RunError.

        sweep: the name of the sweep that the run is a job of.
        """
        with contextlib.ExitStack() as on_error:
            lock = on_error.enter_context(RunLock(path))
            if (path / RUN_FILE).exists():
                raise RunError(f"{path} already holds a run\n  to continue it: python -m esper.run resume={path}")
            text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
            write_atomic(path / CONFIG_FILE, f"# The whole configuration of this run, resolved.\n{text}".encode())
            record = {
                "schema": SCHEMA_VERSION,
                "id": path.name,
                "uid": secrets.token_hex(8),
                "name": config["name"],
                "sweep": sweep,
                "status": "queued",
                "seed": config["seed"],
                "epoch": 0,
                "max_epochs": config["epochs"],
                "update": 0,
                "max_updates": 0,
                "started_at": utc_now(),
                "finished_at": None,
                "wall_s": 0.0,
                "overrides": overrides,
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
        """Take over a run that stopped. Raises RunError where there is none, or another process has it."""
        with contextlib.ExitStack() as on_error:
            lock = on_error.enter_context(RunLock(path))
            try:
                record = read_object(path / RUN_FILE, RESUMED)
                if record.get("schema") != SCHEMA_VERSION:
                    raise ValueError(f"expected an object of schema {SCHEMA_VERSION}")
            except (OSError, ValueError, RecursionError) as error:
                raise RunError(f"resume={path}: {RUN_FILE} cannot be read ({error})") from error
            on_error.pop_all()
        return cls(path, record, lock)

    def start(self, **changes: Any) -> None:
        """The run is under way in this process, for the first time or again."""
        self.update(status="running", finished_at=None, error=None, **_whereabouts(), **changes)

    def beat(self, epoch: int, update: int = 0) -> None:
        """Still alive, at this epoch, after this update of the policy; written at most once a second."""
        self.record |= {"epoch": epoch, "update": update}
        if time.monotonic() - self._last_beat >= BEAT_S:
            self.update()

    def finish(self, status: str, **changes: Any) -> None:
        """The run ended: "finished", "failed" or "interrupted"."""
        self.update(status=status, finished_at=utc_now(), **changes)

    def fail(self, reason: str) -> None:
        """The run failed. On a full disk this much is still tried, and no more."""
        with contextlib.suppress(EsperError):
            self.finish("failed", error=reason)

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
        data = json.dumps(self.record, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        data += b" " * (-len(data) % BLOCK_BYTES)
        try:
            write_atomic(self.path / RUN_FILE, data)
        except EsperError:
            with contextlib.suppress(OSError), open(self.path / RUN_FILE, "r+b", buffering=0) as file:
                file.write(data)
            raise

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


def _whereabouts() -> dict[str, Any]:
    """Who works on the run, and what its exact result depends on."""
    versions = {"esper": __version__, "python": platform.python_version(), "torch": str(torch.__version__)}
    return {"pid": os.getpid(), "host": socket.gethostname(), "versions": versions}

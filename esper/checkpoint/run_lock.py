"""One process owns a run directory."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from esper.errors import RunError

LOCK_NAME = "run.lock"
_TRIES, _PAUSE_S = 10, 0.002
_RESERVE_BYTES = 16384  # that the file takes up as long as the lock is held: see `give_room`
_held: "set[RunLock]" = set()


class RunLock:
    """An advisory lock on a run directory: `with RunLock(run_dir): ...`.

    It dies with its holder, SIGKILL included; forked children do not keep it. A second holder is refused with a
    RunError that names the first: process id, host, since when.
    """

    def __init__(self, run_dir: str | os.PathLike[str]) -> None:
        self.path = Path(run_dir) / LOCK_NAME
        self._descriptor: int | None = None

    def __enter__(self) -> "RunLock":
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock, or raise RunError at once."""
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise RunError(
                f"Cannot lock {self.path.parent}: {error.strerror}. Expected a run directory that can be written to."
            ) from error
        try:
            _flock(descriptor)
        except OSError as error:
            holder = os.pread(descriptor, 4096, 0)
            os.close(descriptor)
            if error.errno != errno.EWOULDBLOCK:
                raise RunError(
                    f"Cannot lock {self.path.parent}: {error.strerror}. Put the run on a file system that has locks."
                ) from error
            raise RunError(
                f"{self.path.parent} is in use by {_describe(holder)}. Wait until it ends, or stop it."
            ) from None
        self._write_holder(descriptor)
        self._descriptor = descriptor
        _held.add(self)

    def release(self) -> None:
        """Give the lock back; the file stays, since removing it could remove another's lock."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            self._close()

    def give_room(self) -> None:
        """Give back what the lock's file takes up of the disk: on a full one, room for one more small file."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, len(os.pread(self._descriptor, 4096, 0).rstrip()))

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            _held.discard(self)

    @staticmethod
    def _write_holder(descriptor: int) -> None:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        holder = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since})
        with contextlib.suppress(OSError):  # the lock holds on a full disk, too; who has it is then not told
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, holder.encode().ljust(_RESERVE_BYTES), 0)


def _flock(descriptor: int) -> None:
    # Whoever asks whether a run is held has its lock for some microseconds: that is no holder.
    for _ in range(_TRIES):
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE_S)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _describe(holder: bytes) -> str:
    try:
        content = json.loads(holder)
        return f"process {content['pid']} on {content['host']} since {content['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _release_in_child() -> None:
    # A lock of this kind lives until every copy of its descriptor is closed: a child that outlives a killed parent
    # would keep the run locked.
    for lock in list(_held):
        lock._close()


os.register_at_fork(after_in_child=_release_in_child)

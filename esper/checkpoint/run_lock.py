"""One process owns a run directory."""

import os
from pathlib import Path
from types import TracebackType

from esper.errors import RunError
from esper.files import FileLock
from esper.files.records import LOCK_FILE

_RESERVE_BYTES = 16384  # that the file takes up as long as the lock is held: see `give_room`


class RunLock:
    """An advisory lock on a run directory: `with RunLock(run_dir): ...`.

    It dies with its holder, SIGKILL included; forked children do not keep it. A second holder is refused with a
    RunError that names the first: process id, host, since when.
    """

    def __init__(self, run_dir: str | os.PathLike[str]) -> None:
        self._lock = FileLock(Path(run_dir) / LOCK_FILE, reserve_bytes=_RESERVE_BYTES)

    def __enter__(self) -> "RunLock":
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock, or raise RunError at once."""
        folder = self._lock.path.parent
        try:
            is_free = self._lock.acquire()
        except OSError as error:
            raise RunError(
                f"Cannot lock {folder}: {error.strerror or error} ({LOCK_FILE}). "
                "Expected a run directory that can be written to, on a file system that has locks."
            ) from error
        if not is_free:
            raise RunError(f"{folder} is in use by {self._lock.holder()}. Wait until it ends, or stop it.")

    def release(self) -> None:
        """Give the lock back; the file stays, since removing it could remove another's lock."""
        self._lock.release()

    def give_room(self) -> None:
        """Give back what the lock's file takes up of the disk: on a full one, room for one more small file."""
        self._lock.give_room()

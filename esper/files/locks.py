"""A lock on a file that dies with its holder."""

import contextlib
import fcntl
import json
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path

from esper.files.opening import open_own
from esper.files.reading import read_json

TRIES, PAUSE_S = 10, 0.002  # whoever asks whether a file is taken has it for some microseconds, and is no holder
_held: "set[FileLock]" = set()


class FileLock:
    """An advisory lock (flock) on a file of ours, which is made where it is missing; forked children do not keep it.

    is_signed: whoever holds it writes into the file who that is, if the disk has room; else the file keeps its content.
    reserve_bytes: that the signature is padded to, for `give_room`.
    """

    def __init__(self, path: Path, is_signed: bool = True, reserve_bytes: int = 0) -> None:
        self.path = path
        self.is_signed = is_signed
        self.reserve_bytes = reserve_bytes
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock; whether it was free. Raises OSError where there is no such place, or no locks."""
        for _ in range(TRIES):
            if self._take():
                break
            time.sleep(PAUSE_S)
        else:
            return False
        signature = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": utc_now()})
        self._sign(signature.ljust(self.reserve_bytes))
        return True

    def give_room(self) -> None:
        """Cut the padding off: where the disk is full, that is room for one more small file."""
        if self.reserve_bytes and self._descriptor is not None:
            with contextlib.suppress(OSError):
                signature = os.pread(self._descriptor, self.reserve_bytes, 0).rstrip()
                os.ftruncate(self._descriptor, len(signature))

    def release(self) -> None:
        """Give the lock back; the file stays, since removing it could remove another's lock."""
        self._sign("")
        self._close()

    def is_taken(self) -> bool:
        """Whether anybody holds it, oneself included. What could not be locked at all is nobody's."""
        if self._descriptor is not None:
            return True
        try:
            is_free = not self.path.exists() or self._take()
        except OSError:
            return False
        self._close()
        return not is_free

    def holder(self) -> str:
        """Who has signed it last, in words."""
        try:
            return spelled(read_json(self.path))
        except (OSError, ValueError):
            return "another process"

    def _sign(self, signature: str) -> None:
        if self.is_signed and self._descriptor is not None:
            with contextlib.suppress(OSError):  # a full disk: the lock holds without it
                os.ftruncate(self._descriptor, 0)
                os.pwrite(self._descriptor, signature.encode(), 0)

    def _take(self) -> bool:
        descriptor = open_own(self.path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                return False
            raise
        self._descriptor = descriptor
        _held.add(self)
        return True

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            _held.discard(self)


def spelled(signature: object) -> str:
    """ "process 12 on host since then", from what names a holder."""
    try:
        return "process {pid} on {host} since {since}".format(**signature)  # type: ignore[arg-type]
    except (KeyError, TypeError):
        return "another process"


def utc_now(timespec: str = "milliseconds") -> str:
    """The present moment: ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec=timespec)


def _release_in_child() -> None:
    # A lock of this kind lives until every copy of its descriptor is closed: a forked child that outlives a killed
    # parent would keep it.
    for lock in list(_held):
        lock._close()


os.register_at_fork(after_in_child=_release_in_child)

"""Work in a forked child of this process, which is warm: nothing is imported a second time."""

import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from esper.errors import EsperError

TRACEBACK = 70  # exit code of a child that a user would have seen a traceback of
LONGEST_S = 60


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child came to its end. code: -9 when it was killed, TRACEBACK, or as of a run."""

    code: int
    said: str

    @property
    def is_killed(self) -> bool:
        return self.code == -signal.SIGKILL

    @property
    def is_traceback(self) -> bool:
        return self.code == TRACEBACK or "Traceback (most recent call last)" in self.said


def in_child(work: Callable[[], int], output: Path, killed_after_s: float | None = None) -> Ended:
    """Do this in a child, which may be killed after a time, and wait for it."""
    pid = os.fork()
    if pid == 0:
        code = TRACEBACK
        try:
            descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
            code = work()
        except EsperError as error:
            os.write(2, f"error: {error}\n".encode())
            code = 2
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)
    began = time.monotonic()
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return Ended(os.waitstatus_to_exitcode(status), output.read_text(errors="replace"))
        took_s = time.monotonic() - began
        if took_s > LONGEST_S:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return Ended(TRACEBACK, f"no end within {LONGEST_S} s")
        if killed_after_s is not None and took_s > killed_after_s:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)


def fresh(folder: Path) -> Path:
    """The folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder

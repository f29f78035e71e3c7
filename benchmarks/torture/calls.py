"""Runs killed at the n-th call to the system, or met there by an error, and then resumed."""

import ctypes
import errno
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.torture.results import Tally
from benchmarks.torture.subjects import Subject, fresh, in_child

KILLS = {"before": 1, "halfway": 2, "after": 3}
FAILURES = {"once": 4, "from here on": 5, "short": 6}
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
ARMED = "ESPER_TORTURE_LIBRARY"


def preloaded(arguments: list[str]) -> ctypes.CDLL:
    """The library between this process and the system; the process begins anew under it where it is not yet."""
    if ARMED not in os.environ:
        library = Path(tempfile.mkdtemp()) / "intercept.so"
        source = Path(__file__).with_name("intercept.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        environment = os.environ | {"LD_PRELOAD": str(library), ARMED: str(library)}
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.torture", *arguments], environment)
    library = ctypes.CDLL(os.environ[ARMED])
    library.torture_arm.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_int)
    library.torture_count.restype = ctypes.c_long
    return library


class Calls:
    """Trials at calls to the system. `kinds` says which: KILLS or FAILURES."""

    def __init__(self, library: ctypes.CDLL, subjects: list[Subject], folder: Path, kinds: dict[str, int]) -> None:
        self._library, self._kinds, self._folder = library, kinds, folder
        self._lengths = [(subject, self._length(subject)) for subject in subjects]

    def _length(self, subject: Subject) -> int:
        """How many calls the undisturbed run makes."""
        counted = self._folder / "count"

        def count() -> int:
            self._library.torture_arm(0, KILLS["after"], 0)
            code = subject.begin(run)
            counted.write_text(str(self._library.torture_count()))
            return code

        run = fresh(self._folder / "run")
        in_child(count, self._folder / "output")
        return int(counted.read_text())

    def one(self, draw: random.Random, tally: Tally) -> None:
        """One run, disturbed once or several times, and brought to its end."""
        subject, length = draw.choice(self._lengths)
        run, output = fresh(self._folder / "run"), self._folder / "output"
        story = [subject.name]
        while True:  # each further time the run is resumed, and disturbed on its way again
            kind, at, error = draw.choice([*self._kinds]), draw.randint(1, length), draw.choice(ERRORS)
            story.append(f"{kind} {at}" + (f" {errno.errorcode[error]}" if self._kinds is FAILURES else ""))

            def disturbed(at: int = at, kind: str = kind, error: int = error) -> int:
                self._library.torture_arm(at, self._kinds[kind], error)
                return subject.begin(run)

            ended = in_child(disturbed, output)
            if ended.is_traceback:
                tally.traceback(", ".join(story), ended.said)
            if draw.random() < 0.7:
                break
        ended = in_child(lambda: subject.begin(run), output)
        if ended.is_traceback:
            tally.traceback(", ".join(story), ended.said)
        lost = f"exit code {ended.code}: {ended.said[-500:]}" if ended.code else subject.lost(run)
        tally.ended(", ".join(story), lost)

"""Runs killed at the n-th call to the system or at any time, or met by an error at such a call, and then resumed."""

import ctypes
import errno
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks.torture.children import fresh, in_child
from benchmarks.torture.results import Tally
from benchmarks.torture.subjects import Subject

KILLS = {"before": 1, "halfway": 2, "after": 3}
FAILURES = {"once": 4, "from here on": 5, "short": 6}
TIMES = {"at any time": 0}
MOST_TIMES = 8  # for one run
REACH = 0.4  # of the undisturbed run: how far it comes at most before it is disturbed, so that it is so several times
MISSED = 71  # exit code of a child that made fewer calls than the one that was to be disturbed
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
    """Trials at calls to the system, or at any time. `kinds` says which: KILLS, FAILURES or TIMES."""

    def __init__(
        self, library: ctypes.CDLL, subjects: Iterable[Subject], folder: Path, kinds: Mapping[str, int]
    ) -> None:
        self._library, self._kinds, self._folder = library, kinds, folder
        self._run, self._output = folder / "run", folder / "output"
        self._subjects, self._lengths = list(subjects), dict[str, tuple[int, float]]()

    def _length(self, subject: Subject) -> tuple[int, float]:
        """How many calls the undisturbed run makes, and how many seconds it takes."""
        counted, began = self._folder / "count", time.monotonic()

        def count() -> int:
            self._library.torture_arm(0, KILLS["after"], 0)
            code = subject.begin(self._run)
            counted.write_text(str(self._library.torture_count()))
            return code

        fresh(self._run)
        in_child(count, self._output)
        return int(counted.read_text()), time.monotonic() - began

    def one(self, draw: random.Random, tally: Tally) -> None:
        """One run, disturbed until it has come to its end or for some times, and then brought there."""
        subject = draw.choice(self._subjects)
        if subject.name not in self._lengths:
            self._lengths[subject.name] = self._length(subject)
        calls, length_s = self._lengths[subject.name]
        fresh(self._run)
        story, times = [subject.name], 0
        for _ in range(MOST_TIMES):  # each further time the run is resumed, and disturbed on its way again
            kind, at, error = draw.choice([*self._kinds]), draw.randint(1, int(REACH * calls)), draw.choice(ERRORS)
            after_s = draw.random() * 2 * REACH * length_s if self._kinds is TIMES else None
            story.append(f"{after_s:.3f} s" if after_s is not None else f"{kind} {at} {errno.errorcode[error]}")

            def disturbed(at: int = at, kind: str = kind, error: int = error) -> int:
                self._library.torture_arm(at, self._kinds[kind], error)
                code = subject.begin(self._run)
                return MISSED if self._library.torture_count() < at else code

            ended = in_child(disturbed, self._output, after_s)
            if ended.is_traceback:
                tally.traceback(", ".join(story), ended.said)
            is_met = ended.code != MISSED if self._kinds is FAILURES else ended.is_killed
            times += is_met
            if not is_met or ended.code == 0:
                break
        ended = in_child(lambda: subject.begin(self._run), self._output)
        if ended.is_traceback:
            tally.traceback(", ".join(story), ended.said)
        lost = f"exit code {ended.code}: {ended.said[-500:]}" if ended.code else subject.lost(self._run)
        tally.ended(", ".join(story), lost, times)

"""Processes that a test starts, and whatever they start in turn: told by a mark in their environment."""

import os
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from esper.sweep.jobs import JobFile

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 60


@dataclass
class Marked:
    """Runs Python in `folder`, and knows all processes that come of it."""

    folder: Path
    mark: str = field(default_factory=lambda: secrets.token_hex(8))

    def start(self, *arguments, path=(), **environment):
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join([str(ROOT), *path]), "OMP_NUM_THREADS": "1", "MARK": self.mark}
            | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments, **options):
        """To its end: exit code, output, errors."""
        process = self.start(*arguments, **options)
        out, err = process.communicate(timeout=TIMEOUT_S)
        return process.returncode, out, err

    def alive(self):
        """The processes that live, by their number."""
        wanted, found = f"MARK={self.mark}".encode(), []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                if wanted in environ.read_bytes():
                    found.append(int(environ.parent.name))
            except OSError:
                continue
        return found

    def end(self):
        for process in self.alive():
            os.kill(process, signal.SIGKILL)


def until(condition, what, timeout_s=TIMEOUT_S):
    """Wait until it holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.02)


def jobs_of(sweep):
    """The jobs that have begun."""
    return [JobFile(path.parent) for path in sorted(sweep.glob("*/job.json"))]


@pytest.fixture
def marked(tmp_path):
    started = Marked(tmp_path)
    yield started
    started.end()

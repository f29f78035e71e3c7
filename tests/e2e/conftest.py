"""The command line as a user drives it: in a process of its own, in an empty folder."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from esper.run import main

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 60
NANO_TIMEOUT_S = 900


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@dataclass
class Finished:
    code: int
    out: str
    err: str


def finished(program, arguments):
    """What a program's main function answers."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = program(arguments)
    return Finished(code, out.getvalue(), err.getvalue())


@dataclass
class CommandLine:
    """`python -m esper.run`, or another module, in `folder`."""

    folder: Path
    processes: list[subprocess.Popen] = field(default_factory=list)

    def start(self, *arguments, module="esper.run", **options):
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=self.folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        self.processes.append(process)
        return process

    def run(self, *arguments, **options):
        """To its end, in a process of its own."""
        process = self.start(*arguments, **options)
        out, err = process.communicate(timeout=TIMEOUT_S)
        return Finished(process.returncode, out, err)

    def run_here(self, *arguments):
        """The same in this process, which has torch loaded already."""
        with contextlib.chdir(self.folder):
            return finished(main, arguments)

    def kill_at(self, epoch, delay_s, run_dir, *arguments):
        """SIGKILL once the run has recorded this epoch and a moment has passed."""
        process = self.start(*arguments)
        self.wait_for(epoch, run_dir, process)
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=TIMEOUT_S)

    def wait_for(self, epoch, run_dir, process):
        """Return when the epoch is in metrics.jsonl (or the process has ended)."""
        deadline = time.monotonic() + TIMEOUT_S
        while process.poll() is None and last_epoch(run_dir) < epoch:
            assert time.monotonic() < deadline, "the run is too slow"
            time.sleep(0.01)

    def only_run(self):
        """The one run directory under outputs/."""
        (record,) = self.folder.glob("outputs/*/*/run.json")
        return record.parent


def lines(path):
    """The whole lines of a JSONL file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def last_epoch(run_dir):
    records = lines(run_dir / "metrics.jsonl")
    return records[-1]["epoch"] if records else -1


def record_of(run_dir):
    return json.loads((run_dir / "run.json").read_text())


@pytest.fixture
def esper(tmp_path):
    command_line = CommandLine(tmp_path)
    yield command_line
    for process in command_line.processes:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def nano_run(tmp_path_factory):
    """One forge run of size nano, as its configuration stands, that all tests of phases look at and none changes."""
    from tests.e2e.forge_runs import start

    folder = tmp_path_factory.mktemp("forge")
    process = start(folder, "size=nano", "hydra.run.dir=nano")
    said, _ = process.communicate(timeout=NANO_TIMEOUT_S)
    assert process.returncode == 0, said.decode()
    return folder / "nano"

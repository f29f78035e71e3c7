"""The runs that are tortured, what they come to undisturbed, and how a run comes to its end in a child process."""

import contextlib
import filecmp
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from esper.config import compose
from esper.config.root import RunConfig
from esper.errors import EsperError
from esper.files.marks import holds_run
from esper.runner.launch import resume, start
from esper.runner.spec import RunSpec

EPOCHS = 4
TRACEBACK = 70  # exit code of a child that a user would have seen a traceback of
LONGEST_S = 60
_TINY = (
    f"epochs={EPOCHS}",
    "gates=permissive",
    "engine=sequential",
    "engine.members=1",
    "engine.twins=false",
    "engine.threads=1",
    "engine.memory_format=contiguous",
    "checkpoint.every_epochs=1",
    "telemetry.report=false",
    "telemetry.console=off",
    "task.image_size=8",
    "task.distortion=none",
    "task.val_copies=1",
    "host.channels=[2,4]",
    "slots=early_late",
    "batch_size=256",
)
_RULES = ("policy=scheduled", "policy.plant_epochs=[1,1,1]", "policy.blend_epochs=[2,2,3]", "optimizer=adamw")
_LEARNS = ("policy=reinforce", "policy.updates=2", "policy.members=1", "policy.rollout_steps=4")
_SUBJECTS = {
    "rules": (*_RULES, "checkpoint.keep_last=2"),
    "reinforce": (*_LEARNS, "policy.validation_episodes=1", "checkpoint.keep_last=2"),
    "rules, every checkpoint kept": (*_RULES, "checkpoint.keep_last=9"),
}


@dataclass(frozen=True, slots=True)
class Subject:
    """A configuration, and the folder of its undisturbed run."""

    name: str
    config: RunConfig
    whole: Path

    def begin(self, run: Path) -> int:
        """Begin the run, or go on with it; the exit code."""
        if holds_run(run):
            return resume(run, [])
        run.mkdir(parents=True, exist_ok=True)
        return start(RunSpec(self.config, run))

    def lost(self, run: Path) -> str | None:
        """What of the run is not as it would have been; None where all is."""
        if _record(run).get("status") != "finished":
            return f"status {_record(run).get('status')}: {_record(run).get('error')}"
        for name in ("metrics.jsonl", "events.jsonl", "learning.jsonl"):
            if _lines(run / name) != _lines(self.whole / name):
                return f"{name} differs"
        newest = max((self.whole / "checkpoints").glob("*.safetensors"), key=lambda path: int(path.stem.split("_")[2]))
        if not filecmp.cmp(newest, run / "checkpoints" / newest.name, shallow=False):
            return f"{newest.name} differs"
        left = {path.name for path in run.rglob("*")} ^ {path.name for path in self.whole.rglob("*")}
        return f"files differ: {', '.join(sorted(left))}" if left else None


def subjects(folder: Path) -> list[Subject]:
    """All of them, each brought to its end once in this process, which is warm from then on."""
    made = []
    for name, further in _SUBJECTS.items():
        subject = Subject(name, compose([*_TINY, *further]), folder / "whole" / name)
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            if subject.begin(subject.whole):
                raise RuntimeError(f"the undisturbed run of {name} has failed")
        made.append(subject)
    return made


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child came to its end. code: -9 when it was killed, TRACEBACK, or as of a run."""

    code: int
    said: str

    @property
    def is_traceback(self) -> bool:
        return self.code == TRACEBACK or "Traceback (most recent call last)" in self.said


def in_child(work: Callable[[], int], output: Path) -> Ended:
    """Do this in a forked child, and wait for it."""
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
    deadline = time.monotonic() + LONGEST_S
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return Ended(os.waitstatus_to_exitcode(status), output.read_text(errors="replace"))
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return Ended(TRACEBACK, f"no end within {LONGEST_S} s")
        time.sleep(0.002)


def fresh(folder: Path) -> Path:
    """The folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _record(run: Path) -> dict[str, object]:
    try:
        return dict(json.loads((run / "run.json").read_text()))
    except (OSError, ValueError):
        return {}


def _lines(path: Path) -> list[object]:
    """All lines but for wall times and for the interruptions themselves."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text().split("\n")[:-1]:
        line = json.loads(text)
        if line.get("type") != "run_resumed":
            lines.append({key: value for key, value in line.items() if not key.endswith("_s")})
    return lines

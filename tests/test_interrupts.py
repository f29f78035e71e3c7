"""Ctrl-C while a command is still being imported."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from esper.interrupts import held_interrupts

ROOT = Path(__file__).parents[1]
# Python imports this first: it presses Ctrl-C when a module is looked for, so many times.
PRESSING = """
import os, signal, sys

class Pressing:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["PRESS_AT"]:
            for _ in range(int(os.environ["PRESSES"])):
                os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Pressing())
"""
ESPER = ["-c", "import sys\nfrom esper.cli import main\nsys.exit(main())"]


def pressed(at: str, command: list[str], folder: Path, presses: int = 1) -> subprocess.CompletedProcess[str]:
    (folder / "first").mkdir()
    (folder / "first" / "sitecustomize.py").write_text(PRESSING)
    environment = os.environ | {
        "PYTHONPATH": f"{folder}/first:{ROOT}", "PRESS_AT": at, "PRESSES": str(presses), "OMP_NUM_THREADS": "1"
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, *command], env=environment, cwd=folder, capture_output=True, text=True, timeout=60
    )


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("at", "command"),
    [
        ("esper.config.help", ["-m", "esper.run"]),
        ("esper.forge.help", ["-m", "esper.forge"]),
        ("esper.printing", [*ESPER, "runs"]),
        ("esper.cli.runs", [*ESPER, "runs"]),
        ("esper.cli.commands", ["-m", "esper.cli", "runs"]),
    ],
)
def test_a_command_that_is_still_being_imported_ends_without_a_word(at, command, tmp_path):
    done = pressed(at, command, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    assert not (tmp_path / "outputs").exists()


def test_whoever_presses_twice_does_not_wait(tmp_path):
    done = pressed("esper.config.help", ["-m", "esper.run", "--help"], tmp_path, presses=2)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.slow
@pytest.mark.parametrize("module", ["esper.run", "esper.forge"])
def test_what_is_loaded_later_is_whole_before_the_command_ends(module, tmp_path):
    done = pressed("numpy", ["-m", module, "telemetry.console=off"], tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_an_interrupt_waits_until_the_end_and_is_answered_then():
    reached = False
    with pytest.raises(KeyboardInterrupt), held_interrupts():
        os.kill(os.getpid(), signal.SIGINT)
        reached = True
    assert reached and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(SystemExit) as ended, held_interrupts(is_program=True):
        os.kill(os.getpid(), signal.SIGINT)
    assert ended.value.code == 130


def test_what_goes_wrong_meanwhile_is_not_covered_up():
    with pytest.raises(ImportError), held_interrupts():
        raise ImportError
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_who_answers_interrupts_already_goes_on_doing_so():
    got = []
    before = signal.signal(signal.SIGINT, lambda *_: got.append(1))
    try:
        with held_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            assert got == [1]
    finally:
        signal.signal(signal.SIGINT, before)
    entered = []

    def enter() -> None:
        with held_interrupts():
            entered.append(True)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [True]

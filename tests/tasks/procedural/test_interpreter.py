"""Programs are run, bounded, and leave nothing behind."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.tasks.procedural.interpreter import Interpreter, Limits


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Interpreter]:
    interpreter = Interpreter(Limits(wall_s=0.5))
    yield interpreter
    interpreter.close()


@pytest.mark.parametrize(
    "program, output",
    [
        ("print(1+2)", "3\n"),
        ("", ""),
        ("print('ä\\n', end='')", "ä\n"),
        ("1/0", None),
        ("print(1", None),
        ("raise SystemExit(3)", None),
        ("import numpy", None),  # -S: no installed packages
        ("while True: pass", None),
        ("import time; time.sleep(9)", None),
        ("print('a' * 5000)", None),
        ("while True: print(1)", None),
        ("x = bytearray(1 << 30); print(len(x))", None),
        ("import os; os.kill(os.getppid(), 9)", None),
        ("import os; print(len(os.environ.get('HOME', '')))", "0\n"),
        ("import sys; print(sys.stdin.read())", "\n"),
        ("import os; os.fork(); print(1)", "1\n1\n"),
    ],
)
def test_output(interpreter: Interpreter, program: str, output: str | None) -> None:
    started = time.monotonic()
    assert interpreter.run(program) == output
    assert time.monotonic() - started < 5
    assert interpreter.run("print('well')") == "well\n"


def test_a_program_leaves_nothing_for_the_next(interpreter: Interpreter) -> None:
    assert interpreter.run("import builtins; builtins.x = 1; print(x)") == "1\n"
    assert interpreter.run("print(x)") is None


def test_a_program_writes_no_file(interpreter: Interpreter, tmp_path: Path) -> None:
    path = tmp_path / "written"
    assert interpreter.run(f"with open({str(path)!r}, 'w') as file: file.write('x' * 9)") is None
    assert not path.exists() or path.stat().st_size == 0


@pytest.mark.slow
def test_cpu_time_is_bounded() -> None:
    interpreter = Interpreter(Limits(cpu_s=1, wall_s=20.0))
    started = time.process_time()
    assert interpreter.run("while True: pass") is None
    assert time.process_time() - started < 5
    interpreter.close()

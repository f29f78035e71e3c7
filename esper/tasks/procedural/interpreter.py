"""A Python interpreter of its own for programs that are not trusted: bounded, and fast where there are many."""

import atexit
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from esper.errors import TaskError
from esper.files import parse_json

_WORKER = Path(__file__).with_name("interpreter_worker.py")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of each program. What goes beyond one of them is stopped."""

    cpu_s: int = 1
    wall_s: float = 2.0
    memory_bytes: int = 256 << 20
    output_bytes: int = 4096


class Interpreter:
    """A process that forks a child for each program: nothing of one is left for the next, at a millisecond each.

    It is isolated (-I -S: neither the environment nor installed packages), no shell starts it, and it ends with this
    process. Not for hostile programs: a child can read what its user can.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0

    def run(self, program: str) -> str | None:
        """What it prints; None where it fails, prints too much, or takes too long or too much memory.

        Raises: TaskError where no interpreter can be started.
        """
        with self._lock:
            process = self._started()
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(json.dumps(program) + "\n")
                process.stdin.flush()
                reply = process.stdout.readline()
            except BrokenPipeError:
                reply = ""
            if not reply:  # the program has ended the interpreter itself; the next one gets another
                self._end()
                return None
        output = parse_json(reply.encode())
        return output if output is None else str(output)

    def close(self) -> None:
        """End the process; `run` would start another."""
        with self._lock:
            self._end()

    def _started(self) -> "subprocess.Popen[str]":
        if self._owner != os.getpid():  # after a fork, it is the parent's
            self._process, self._owner = None, os.getpid()
        if self._process is None:
            limits = self._limits
            figures = (limits.cpu_s, limits.wall_s, limits.memory_bytes, limits.output_bytes)
            command = [sys.executable, "-I", "-S", str(_WORKER), *map(str, figures)]
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env={},
                    encoding="utf-8",
                    start_new_session=True,  # Ctrl-C is this process's to answer
                )
            except OSError as error:
                raise TaskError(f"no interpreter for programs can be started: {error}") from None
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.communicate()


_INTERPRETER = Interpreter()
atexit.register(_INTERPRETER.close)


def run_program(program: str) -> str | None:
    """As `Interpreter.run`, in one interpreter for this process."""
    return _INTERPRETER.run(program)

"""The process behind `Interpreter`, which runs this file by its path: programs come as JSON lines, outputs go back.

It imports nothing but the standard library, and needs no installed package.
"""

import contextlib
import json
import os
import resource
import select
import signal
import sys
import time
from typing import NoReturn


def main(cpu_s: int, wall_s: float, memory_bytes: int, output_bytes: int) -> None:
    """Args: limits, as `esper.tasks.procedural.interpreter.Limits` has them."""
    for line in sys.stdin:
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read_end)
            _run(json.loads(line), write_end, cpu_s, memory_bytes)
        os.close(write_end)
        output = _read(read_end, output_bytes, time.monotonic() + wall_s)
        os.close(read_end)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)  # also what it has started
        status = os.waitpid(child, 0)[1]
        is_sound = output is not None and os.waitstatus_to_exitcode(status) == 0
        sys.stdout.write(json.dumps(output if is_sound else None) + "\n")
        sys.stdout.flush()


def _run(program: str, write_end: int, cpu_s: int, memory_bytes: int) -> NoReturn:
    status = 1
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor, source in ((0, nothing), (1, write_end), (2, nothing)):
            os.dup2(source, descriptor)
        os.close(nothing)
        os.close(write_end)
        for kind, most in (
            (resource.RLIMIT_CPU, cpu_s),
            (resource.RLIMIT_AS, memory_bytes),
            (resource.RLIMIT_FSIZE, 0),
            (resource.RLIMIT_CORE, 0),
        ):
            resource.setrlimit(kind, (most, most))
        exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
        sys.stdout.flush()
        status = 0
    finally:
        os._exit(status)


def _read(read_end: int, most: int, deadline: float) -> str | None:
    """All that is written until the end; None where it is more, not text, or not over in time."""
    output = b""
    while select.select([read_end], [], [], max(0.0, deadline - time.monotonic()))[0]:
        part = os.read(read_end, most + 1)
        output += part
        if len(output) > most:
            return None
        if not part:
            try:
                return output.decode()
            except UnicodeDecodeError:
                return None
    return None


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))

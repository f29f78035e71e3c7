"""`esper`: the command line. (`esper run` is `python -m esper.run`.)"""

from collections.abc import Sequence

from esper.errors import ExitCode
from esper.interrupts import held_interrupts


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 2 bad input, 130 interrupted."""
    try:
        with held_interrupts():
            from esper.cli.commands import main as answer
        return answer(arguments)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED

"""Ctrl-C while modules are imported: it waits until they are whole."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from esper.errors import ExitCode


@contextmanager
def held_interrupts(is_program: bool = False) -> Iterator[None]:
    """Inside, Ctrl-C waits, and is answered at the end by KeyboardInterrupt; a second one ends the process at once.

    Args: is_program: what is imported is the program itself, which nobody has called yet: it exits, and says nothing.

    For imports. Cut off in the middle, modules fail as they like: Python tells of it at length, a compiled one that
    swallows the interrupt leaves half of itself behind, and what goes wrong then is blamed on something else.
    """
    asked = False

    def hold(*_: object) -> None:
        nonlocal asked
        if asked:
            os._exit(ExitCode.INTERRUPTED)
        asked = True

    is_pythons = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not is_pythons or threading.current_thread() is not threading.main_thread():
        yield  # whoever answers it already goes on doing so
        return
    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if asked:
        raise SystemExit(ExitCode.INTERRUPTED) if is_program else KeyboardInterrupt

"""Ctrl-C that lets the epoch end."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from esper.leyline.ranks import ALONE, Ranks
from esper.printing import say


class StopRequest:
    """While it is open, the first SIGINT or SIGTERM asks the run to stop, and the second stops it at once.

    Where it is not (yet) patient, as before a run has begun to train, the first one does. `signal` is the number of the
    signal that asked, or 0. Ranks that share the run stop at the same place: whether to stop is a question that all of
    them ask, and the answer is yes as soon as one was asked to. part: of the work that is still done, in words.
    """

    def __init__(self, ranks: Ranks = ALONE, is_patient: bool = True, part: str = "epoch") -> None:
        self.part = part
        self.signal = 0
        self.is_patient = is_patient or ranks.world > 1  # ranks stop together
        self._ranks = ranks
        self._before: dict[int, Any] = {}

    @property
    def code(self) -> int:
        """The exit code of what was stopped by it."""
        return 128 + (self.signal or signal.SIGINT)

    def __bool__(self) -> bool:
        asked = next(filter(None, self._ranks.all_gather(self.signal)), 0)
        self.signal = self.signal or asked
        return asked != 0

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # no other thread may set handlers
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number
        if not self.is_patient:
            raise KeyboardInterrupt
        if self._ranks.rank == 0:
            say("", f"stopping after this {self.part} (once more: at once)", is_error=True)

"""Where a way is, and how long it has left, on the terminal."""

import time

from esper.nissa.formatting import clock
from esper.printing import say

LINE_EVERY_S = 5.0


class Progress:
    """Lines that say what is being done, how far it is, and how long this part of it has left.

    mode: as of telemetry.console; "off" says nothing.
    """

    def __init__(self, way: list[str], mode: str) -> None:
        self._way, self._is_on = way, mode != "off"
        self._phase, self._what = "", ""
        self._started = self._said = time.monotonic()
        self._first = 0

    def begin(self, phase: str) -> None:
        """A phase begins."""
        self._phase, self._what = phase, ""
        self._say(f"{self._way.index(phase) + 1} of {len(self._way)}: {phase}")

    def note(self, text: str) -> None:
        """What nobody should miss."""
        self._say(f"  {text}")

    def __call__(self, done: int, total: int, what: str) -> None:
        """So much of this part is done; a line every few seconds."""
        now = time.monotonic()
        if what != self._what:
            self._what, self._started, self._said, self._first = what, now, now, done
            return
        if now - self._said < LINE_EVERY_S and done < total:
            return
        self._said = now
        steps = max(done - self._first, 1)
        left = (now - self._started) / steps * (total - done)
        self._say(f"  {what} {done}/{total}" + (f"  {clock(left)} left" if done < total else ""))

    def _say(self, line: str) -> None:
        if self._is_on:
            say(line)

"""The event hub: everything that happens in a run is told once, here, and goes to every sink."""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from esper.factories import pass_on_stop
from esper.leyline import Sink, TelemetryEvent
from esper.printing import logger

log = logger("esper.nissa")

FAILURES = (Exception, SystemExit)  # of a sink, which may be a user's own


class EventHub:
    """Fans records and events out to sinks, in order.

    A sink that fails is warned of once, closed and dropped: a dashboard must not cost a run. A sink that has
    `essential = True` (the JSONL files, from which everything else is rebuilt) is the exception: its failure
    propagates.
    """

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = list(sinks)

    def epoch(self, record: dict[str, Any]) -> None:
        """One epoch's record; a number that is not finite becomes None before any sink sees it."""
        record = finite(record)
        self._tell(lambda sink: sink.epoch(record))

    def update(self, record: dict[str, Any]) -> None:
        """One update of the policy, made finite like an epoch's record."""
        record = finite(record)
        self._tell(lambda sink: sink.update(record))

    def event(self, event: TelemetryEvent) -> None:
        """One event; its data is made finite like a record."""
        event = replace(event, data=finite(event.data))
        self._tell(lambda sink: sink.event(event))

    def close(self, status: str) -> None:
        """The run ended. Every sink is closed, whatever the others do; an essential one's failure is raised last."""
        failure: BaseException | None = None
        sinks, self._sinks = self._sinks, []
        for sink in sinks:
            try:
                sink.close(status)
            except FAILURES as error:
                pass_on_stop(error)
                if getattr(sink, "essential", False):
                    failure = failure or error
                else:
                    log.warning("%s could not be closed (%s); nothing else is affected.", _name(sink), reason(error))
        if failure is not None:
            raise failure

    def _tell(self, tell: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                tell(sink)
            except FAILURES as error:
                pass_on_stop(error)
                if getattr(sink, "essential", False):
                    raise
                self._drop(sink, error)

    def _drop(self, sink: Sink, error: BaseException) -> None:
        self._sinks.remove(sink)
        with contextlib.suppress(*FAILURES):  # a live view has to give the terminal back even when it is broken
            sink.close("failed")
        if isinstance(error, BrokenPipeError):
            return  # whoever read the output has gone, as `| head` does
        log.warning("%s failed (%s) and gets nothing from here on; the run goes on.", _name(sink), reason(error))


def finite(value: Any) -> Any:
    """The same plain value with None for every number that is not finite, at any depth."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _name(sink: Sink) -> str:
    return f"Sink {type(sink).__name__}"


def reason(error: BaseException) -> str:
    """What went wrong, in one line: "OSError: no space"."""
    return ": ".join(filter(None, (type(error).__name__, " ".join(str(error).split()))))

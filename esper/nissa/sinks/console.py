"""What a run shows while it goes: a live view on a terminal, else one line an epoch or update."""

from typing import Any, TextIO, cast

from esper.leyline import Sink, TelemetryEvent, TelemetryEventType
from esper.nissa.formatting import clock
from esper.nissa.record_view import Clock, RunTitle, event_text, learning_parts, mean_of, score_parts, stage_counts
from esper.printing import output, say

LOUD_EVENTS = (
    TelemetryEventType.GOVERNOR_ROLLBACK,
    TelemetryEventType.MEMBER_RETIRED,
    TelemetryEventType.FINAL_TRAINED,
    TelemetryEventType.RUN_RESUMED,
)


def console_sink(title: RunTitle, mode: str = "auto", stream: TextIO | None = None) -> Sink | None:
    """The view for a mode: "auto" (live on a terminal, else plain), "live", "plain" or "off" (None).

    Args:
        stream: where to; standard output when None.
    """
    stream = stream or cast(TextIO, output())
    if mode == "off":
        return None
    if mode == "live" or (mode == "auto" and stream.isatty()):
        from esper.nissa.sinks.live import LiveConsole

        return LiveConsole(title, stream)
    return PlainConsole(title, stream)


class PlainConsole:
    """One line an epoch or update, and one for each rollback; for logs and pipes."""

    def __init__(self, title: RunTitle, stream: TextIO) -> None:
        self._title = title
        self._stream = stream
        self._clock = Clock()
        self._say(str(title))

    def epoch(self, record: dict[str, Any]) -> None:
        """Print the epoch."""
        self._clock.tick(record, record["epoch"], self._title.max_epochs)
        width = len(str(self._title.max_epochs))
        parts = [f"epoch {record['epoch']:>{width}}/{self._title.max_epochs}", *score_parts(record)]
        parts.append(f"{mean_of(record, 'parameter_count'):,.0f} parameters")
        if stages := stage_counts(record):
            parts.append("seeds: " + ", ".join(f"{count} {label}" for label, count in stages.items()))
        if record.get("samples_per_s"):
            parts.append(f"{record['samples_per_s']:,.0f} samples/s")
        if (left := self._clock.left_s) is not None:
            parts.append(f"{clock(left)} left")
        self._say("  ".join(parts))

    def update(self, record: dict[str, Any]) -> None:
        """Print the update."""
        self._clock.tick(record, record["update"], self._title.max_updates)
        width = len(str(self._title.max_updates))
        parts = [f"update {record['update']:>{width}}/{self._title.max_updates}"]
        parts += learning_parts(record, self._title.return_unit)
        if (left := self._clock.left_s) is not None:
            parts.append(f"{clock(left)} left")
        self._say("  ".join(parts))

    def event(self, event: TelemetryEvent) -> None:
        """Print what nobody should miss."""
        if event.event_type in LOUD_EVENTS:
            self._say(event_text(event))

    def close(self, status: str) -> None:
        """Say how it ended."""
        self._say(f"run {status} after {clock(self._clock.spent_s)}")

    def _say(self, line: str) -> None:
        say(line, file=self._stream)

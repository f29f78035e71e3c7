"""The live view: rich redraws it in place while the run goes."""

from collections import deque
from typing import Any, TextIO

from rich.console import Group
from rich.live import Live
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.style import Style
from rich.table import Table

from esper.leyline import TelemetryEvent, TelemetryEventType
from esper.nissa.formatting import clock
from esper.nissa.palette import STAGE_LOOKS, StageLook, stage_look
from esper.nissa.record_view import (
    Clock,
    RunTitle,
    event_text,
    kind_of,
    learning_parts,
    mean_of,
    paired,
    score_of,
    score_parts,
    split,
    stage_counts,
)
from esper.nissa.statistics import mean_interval
from esper.nissa.tracker import DiagnosticTracker, seeds_of_record
from esper.printing.tables import Console, Text

MOST_ROWS = 8  # members shown one by one; more are shown together
MOST_DIAGNOSTICS = 2
_DORMANT = stage_look("DORMANT")
_QUIET_EVENTS = (
    TelemetryEventType.GATE_EVALUATED,
    TelemetryEventType.CHECKPOINT_SAVED,
    # Told by stage_changed as well.
    TelemetryEventType.GERMINATED,
    TelemetryEventType.FOSSILIZED,
    TelemetryEventType.CULLED,
)


class LiveConsole:
    """Title, progress, throughput, members with each slot's stage as a coloured strip, and the latest events."""

    def __init__(self, title: RunTitle, stream: TextIO, console: Console | None = None) -> None:
        self._console = console or Console(file=stream)
        self._title = title
        self._clock = Clock()
        self._record: dict[str, Any] | None = None
        self._update: dict[str, Any] | None = None
        self._events: deque[str] = deque(maxlen=5)
        self._tracker = DiagnosticTracker()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None, complete_style="#2aa198", finished_style="#2aa198"),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            expand=True,
        )
        if title.max_updates:
            self._updates = self._progress.add_task("update", total=title.max_updates, left="")
        self._task = self._progress.add_task("epoch", total=title.max_epochs, left="", start=not title.max_updates)
        # Drawn once a second, not once an epoch: enough to see that it lives, however short the epochs are.
        self._live = Live(self._view(), console=self._console, refresh_per_second=1, transient=False)
        self._live.start()

    def epoch(self, record: dict[str, Any]) -> None:
        """Show the epoch."""
        if self._title.max_updates and record["epoch"] == 0:
            self._progress.stop_task(self._updates)
            self._progress.start_task(self._task)
        self._record = record
        self._clock.tick(record, record["epoch"], self._title.max_epochs)
        for telemetry, loss in seeds_of_record(record):
            self._tracker.record(telemetry, loss)
        self._advance(self._task, record["epoch"])

    def update(self, record: dict[str, Any]) -> None:
        """Show the update of the policy."""
        self._update = record
        self._clock.tick(record, record["update"], self._title.max_updates)
        self._advance(self._updates, record["update"])

    def _advance(self, task: TaskID, done: int) -> None:
        left = self._clock.left_s
        self._progress.update(task, completed=done, left="" if left is None else f"{clock(left)} left")
        self._live.update(self._view())

    def event(self, event: TelemetryEvent) -> None:
        """Remember the event for the next redraw."""
        if event.event_type not in _QUIET_EVENTS:
            self._events.append(event_text(event))

    def close(self, status: str) -> None:
        """Leave the last picture on the terminal and give it back."""
        self._progress.stop_task(self._task)
        self._progress.update(self._task, left=status)
        self._live.update(self._view(), refresh=True)
        self._live.stop()

    def _view(self) -> Group:
        heading = Text.assemble(
            ("esper ", "bold #2aa198"), (str(self._title), "bold"), no_wrap=True, overflow="ellipsis"
        )
        parts: list[Any] = [heading, self._progress]
        if self._update is not None:
            parts.append(
                Text(
                    "  ".join(learning_parts(self._update, self._title.return_unit)), no_wrap=True, overflow="ellipsis"
                )
            )
        if self._record is not None:
            parts.append(_headline(self._record))
            grown, _ = split(self._record)
            parts.append(Padding(_members(self._record) if len(grown) <= MOST_ROWS else _strips(self._record), (1, 0)))
            parts.append(_legend(self._record))
        parts += [Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in self._events]
        warnings = self._tracker.diagnostics()[-MOST_DIAGNOSTICS:]
        parts += [Text(f"! {line}", style="yellow", no_wrap=True, overflow="ellipsis") for line in warnings]
        return Group(*parts)


def _headline(record: dict[str, Any]) -> Text:
    parts = score_parts(record)
    if record.get("samples_per_s"):
        parts.append(f"{record['samples_per_s']:,.0f} samples/s")
    if record.get("host_epochs_per_s"):
        parts.append(f"{record['host_epochs_per_s']:.3g} host epochs/s")
    return Text("  ".join(parts), no_wrap=True, overflow="ellipsis")


def _members(record: dict[str, Any]) -> Table:
    """One row a grown member: its score, its twin's, its size, and what each slot is doing."""
    grown, twins = split(record)
    other = {row.get("twin_of"): score_of(row) for row in twins}
    slots = list(grown[0].get("slots") or {}) if grown else []
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("member", "grown %", *(["twin %"] if twins else []), "params"):
        table.add_column(name, justify="right", no_wrap=True)
    for slot in slots:
        table.add_column(slot, no_wrap=True, overflow="ellipsis")
    for row in grown:
        cells = [str(row["member"]), _percent(score_of(row))]
        if twins:
            cells.append(_percent(other.get(row["member"])))
        cells.append(f"{row.get('parameter_count') or 0:,}")
        note = "rolled back" if row.get("rolled_back") else "retired" if row.get("retired") else ""
        table.add_row(*cells, *(_slot_cell(row["slots"][slot]) for slot in slots), style="red" if note else "")
    return table


def _slot_cell(slot: dict[str, Any]) -> Text:
    look = stage_look(slot.get("stage"))
    if look is _DORMANT:
        return Text("·", style="dim")
    alpha = slot.get("alpha") or 0.0
    share = f" {alpha:.0%}" if 0 < alpha < 1 else ""
    return Text().append(f" {look.letter} ", _style(look)).append(f" {slot.get('blueprint') or ''}{share}")


def _strips(record: dict[str, Any]) -> Table:
    """One row a slot: a coloured letter for each grown member's stage; and scores as means over members."""
    grown, _ = split(record)
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(justify="right", style="dim", no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    for slot in grown[0].get("slots") or {}:
        strip = Text()
        for row in grown:
            look = stage_look(row["slots"][slot].get("stage"))
            strip.append(look.letter, style=_style(look) if look is not _DORMANT else "dim")
        table.add_row(slot, strip)
    gains = [mine - other for mine, other in paired(record) if mine is not None and other is not None]
    if gains:
        table.add_row("ahead", f"{sum(gain > 0 for gain in gains)} of {len(gains)} members beat their twin")
    scores = [score for score in map(score_of, grown) if score is not None]
    if scores:
        interval = mean_interval(scores, within=kind_of(record).within)
        table.add_row("grown", f"{interval.text(unit='%')}, from {min(scores):.1f} to {max(scores):.1f}")
    table.add_row("size", f"{mean_of(record, 'parameter_count'):,.0f} parameters")
    return table


def _legend(record: dict[str, Any]) -> Text:
    """The stages that occur, with how many slots are in each."""
    counts = stage_counts(record)
    legend = Text(no_wrap=True, overflow="ellipsis")
    for look in STAGE_LOOKS.values():
        if look.label in counts:
            legend.append(f" {look.letter} ", style=_style(look))
            legend.append(f" {counts[look.label]} {look.label}  ", style="dim")
    return legend


def _style(look: StageLook) -> Style:
    return Style(color=look.ink, bgcolor=look.colour)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"

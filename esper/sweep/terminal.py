"""What a sweep shows: a line when a job begins or ends, and a table at the end."""

import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, MappingProxyType, TracebackType
from typing import Any, TextIO, cast

from esper.printing import output, say
from esper.sweep.jobs import FAILED, FINISHED, INTERRUPTED, KILLED, NEW, RUNNING, JobFile

POLL_S = 0.2
DEADLINE_S = 4.5  # what has been asked twice to stop, and has not by then, is ended
STYLES = {FINISHED: "green", FAILED: "red", RUNNING: "cyan", INTERRUPTED: "yellow", KILLED: "yellow", NEW: "dim"}


@dataclass(frozen=True)
class Job:
    """A job of a sweep: all its overrides, and what of them sets it apart from the other jobs."""

    file: JobFile
    overrides: list[str]
    sets: list[str]

    @property
    def id(self) -> str:
        """Its name, and its folder's."""
        return self.file.folder.name


class Terminal:
    """The output and error streams as they are now, whatever a job that runs in this process does with them.

    units: of jobs' figures, by name.
    """

    def __init__(self, units: Mapping[str, str] = MappingProxyType({})) -> None:
        self.units = units
        self._opened: list[TextIO] = []
        self.out, self.err = self._copy(output()), self._copy(output(is_error=True))

    def say(self, *lines: str, is_error: bool = False) -> None:
        """Print lines; nobody reading them is no reason to stop."""
        say(*lines, file=self.err if is_error else self.out)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str]) -> None:
        """Print rows of text under these headings, the second column in each row's style."""
        from rich.table import Table

        from esper.printing.tables import Console, Text

        table = Table(box=None, pad_edge=False)
        for column in columns:
            table.add_column(column, overflow="fold")
        for row, style in zip(rows, styles, strict=True):
            cells = [Text(cell) for cell in row]
            cells[1].stylize(style)
            table.add_row(*cells)
        Console(file=self.out).print(table)

    def close(self) -> None:
        """Give the copies back."""
        for stream in self._opened:
            with suppress(OSError, ValueError):
                stream.close()

    def _copy(self, stream: Any) -> TextIO:
        """Another stream to the same place; the stream itself where it is no file's."""
        try:
            stream.flush()
            self._opened.append(os.fdopen(os.dup(stream.fileno()), "w", encoding=stream.encoding, errors="replace"))
            return self._opened[-1]
        except (OSError, ValueError, AttributeError):
            return cast(TextIO, stream)


class Watch:
    """While it is open, says when a job begins and ends, wherever it runs, and when the sweep is asked to stop.

    What jobs do is read off their folders, which works under any launcher. stop: is told the signal that asks. The
    second signal gives the sweep `DEADLINE_S` to come to an end; then this process ends, whatever it is at, and with it
    what dies with it.
    """

    def __init__(self, terminal: Terminal, jobs: Sequence[Job], stop: Callable[[int], None]) -> None:
        self.terminal = terminal
        self._stop = stop
        self._jobs = {job.id: job for job in jobs}
        self._numbers = {job.id: number for number, job in enumerate(jobs, start=1)}
        self._seen = {job.id: _stamp(job.file) for job in jobs}
        self._is_over, self._is_news = threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=work, name=f"sweep{work.__name__}", daemon=True)
            for work in (self._follow, self._listen)
        ]
        self._signals, self._told = os.pipe()
        os.set_blocking(self._told, False)
        self._is_asked = False
        self._deadline: threading.Timer | None = None
        self._stack = ExitStack()

    def __enter__(self) -> "Watch":
        if threading.current_thread() is threading.main_thread():
            self._stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(self._told))
            self._stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, _leave))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._is_over.set()
        self._is_news.set()
        os.write(self._told, b"\0")
        for thread in self._threads:
            thread.join()
        if self._deadline:
            self._deadline.cancel()
        self._look()
        os.close(self._signals)
        os.close(self._told)

    def _follow(self) -> None:
        is_told = is_over = False
        while not is_over:
            self._is_news.wait(POLL_S)
            self._is_news.clear()
            is_over = self._is_over.is_set()
            if self._is_asked and not is_told:
                self.terminal.say("stopping: what runs is saved first (once more: at once)")
                is_told = True
            self._look()

    def _listen(self) -> None:
        """Apart from what is said, which could wait for a reader: the deadline must not."""
        asked: list[int] = []
        while not self._is_over.is_set():
            asked += [number for number in os.read(self._signals, 64) if number in (signal.SIGINT, signal.SIGTERM)]
            if asked and not self._is_asked:
                self._stop(asked[0])
                self._is_asked = True
                self._is_news.set()
            if len(asked) > 1 and self._deadline is None:
                self._deadline = threading.Timer(DEADLINE_S, os._exit, [128 + asked[0]])
                self._deadline.daemon = True
                self._deadline.start()

    def _look(self) -> None:
        for name, job in self._jobs.items():
            stamp = _stamp(job.file)
            if stamp == self._seen[name]:
                continue
            self._seen[name] = stamp
            record = job.file.record()
            news = _news(job, record, self.terminal.units)
            self.terminal.say(f"[{self._numbers[name]}/{len(self._jobs)}] {name} {news}")


def _news(job: Job, record: dict[str, Any], units: Mapping[str, str]) -> str:
    """What job.json says, in a line."""
    status = str(record.get("status"))
    took = "" if record.get("seconds") is None else f" {took_text(record['seconds'])}"
    results = record.get("result") or {}
    figures = " ".join(f"{name} {with_unit(figure_text(value), units.get(name))}" for name, value in results.items())
    reason = f": {first_line(record['error'])}" if status == FAILED else ""
    return f"{status:<9}{took}  {figures or ' '.join(job.sets)}{reason}"


def show_jobs(terminal: Terminal, jobs: Sequence[Job], statuses: Sequence[str]) -> None:
    """The jobs of a sweep, none of which is run now."""
    rows = [[job.id, status, " ".join(job.sets)] for job, status in zip(jobs, statuses, strict=True)]
    terminal.table(["job", "status", "sets"], rows, [STYLES.get(status, "") for status in statuses])


def show_end(terminal: Terminal, jobs: Sequence[Job], statuses: Sequence[str]) -> None:
    """What came of each job, and where to read about those that failed."""
    records = [job.file.record() if status != NEW else {} for job, status in zip(jobs, statuses, strict=True)]
    names = list(dict.fromkeys(name for record in records for name in record.get("result") or {}))
    rows = []
    for job, status, record in zip(jobs, statuses, records, strict=True):
        results = record.get("result") or {}
        seconds = record.get("seconds")
        took = "" if seconds is None else took_text(seconds)
        rows.append([job.id, status, took, *(figure_text(results.get(name)) for name in names), " ".join(job.sets)])
    titles = (f"{name} ({unit})" if (unit := terminal.units.get(name)) else name for name in names)
    terminal.table(["job", "status", "time", *titles, "sets"], rows, [STYLES.get(status, "") for status in statuses])
    for job, status, record in zip(jobs, statuses, records, strict=True):
        if status == FAILED:
            why = first_line(record.get("error"))
            terminal.say(f"{job.id} failed: {why}", f"  {shown(job.file.log)}", is_error=True)


def jobs_text(jobs: Sequence[Job]) -> str:
    """ "1 job", "2 jobs"."""
    return f"{len(jobs)} job{'s' * (len(jobs) != 1)}"


def counted(statuses: Sequence[str]) -> str:
    """ "3 finished, 1 failed"."""
    counts = Counter(statuses)
    order = (FINISHED, FAILED, INTERRUPTED, KILLED, RUNNING, NEW)
    return ", ".join(f"{counts[status]} {status}" for status in order if counts[status])


def first_line(error: Any) -> str:
    """An error cut to what fits a line."""
    text = " ".join(str(error or "no reason given").split("\n")[0].split())
    return text if len(text) <= 160 else f"{text[:157]}..."


def figure_text(value: Any) -> str:
    """A figure as a table shows it."""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e5 else f"{value:,.0f}"
    return "" if value is None else str(value)


def with_unit(figure: str, unit: str | None) -> str:
    """ "88.1%", "7.2 points"."""
    return f"{figure}{'' if unit == '%' else ' '}{unit}" if figure and unit else figure


def took_text(seconds: float) -> str:
    """A length of time."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"


def shown(path: Path) -> Path:
    """A path as it is best read: relative, where it lies below the current folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)  # where no job is under way that would be saved first


def _stamp(file: JobFile) -> int:
    try:
        return os.stat(file.path).st_mtime_ns
    except OSError:
        return 0

"""The files a run is known by: metrics.jsonl, events.jsonl and learning.jsonl, one strict JSON object a line."""

import contextlib
import json
from collections.abc import Container
from pathlib import Path
from typing import Any

from esper import files
from esper.files import open_to_append
from esper.files.records import EVENTS_FILE, LEARNING_FILE, METRICS_FILE
from esper.leyline import TelemetryEvent


class JsonlSink:
    """Appends to a run directory's files; every line is in the system's hands on return.

    learning.jsonl comes with the first update: a run whose policy does not learn has none. `recent` has the lines since
    the last `forget()`, by file: what a checkpoint carries of them outlives damage to the files.

    Raises:
        OSError: the line could not be written (a full disk); the files still end with their last whole line.
        ValueError: a record holds NaN or infinity, which JSON has not.
    """

    essential = True

    def __init__(self, run_dir: Path | str) -> None:
        self._run_dir = Path(run_dir)
        self._metrics = _LineFile(self._run_dir / METRICS_FILE)
        self._events = _LineFile(self._run_dir / EVENTS_FILE)
        self._learning: _LineFile | None = None
        self.recent: dict[str, list[str]] = {}
        self.forget()

    def epoch(self, record: dict[str, Any]) -> None:
        """Append one epoch."""
        self.recent[METRICS_FILE].append(self._metrics.append(record))

    def update(self, record: dict[str, Any]) -> None:
        """Append one update of the policy."""
        if self._learning is None:
            self._learning = _LineFile(self._run_dir / LEARNING_FILE)
        self.recent[LEARNING_FILE].append(self._learning.append(record))

    def event(self, event: TelemetryEvent) -> None:
        """Append one event."""
        self.recent[EVENTS_FILE].append(self._events.append(event.to_dict()))

    def forget(self) -> None:
        """A checkpoint has what was recent."""
        self.recent = {METRICS_FILE: [], EVENTS_FILE: [], LEARNING_FILE: []}

    def close(self, status: str) -> None:
        """Close the files."""
        for file in (self._metrics, self._events, self._learning):
            if file is not None:
                file.close()


class _LineFile:
    def __init__(self, path: Path) -> None:
        # Unbuffered, so that nothing of a line is left behind to fail a second time on close.
        self._file = open_to_append(path)

    def append(self, record: dict[str, Any]) -> str:
        text = json.dumps(record, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
        line = text.encode() + b"\n"
        start = self._file.tell()
        try:
            written = 0
            while written < len(line):
                written += self._file.write(line[written:])
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(start)
            raise
        return text

    def close(self) -> None:
        self._file.close()


def read_jsonl(path: Path | str, shape: Any = dict, required: Container[str] = ()) -> tuple[list[dict[str, Any]], int]:
    """Every object of this shape in a file, and the number of lines without one (a killed run may end in half a line).

    A file that does not exist reads as empty. shape, required: as of `esper.files.misfit`.
    """
    try:
        lines = list(files.read_jsonl(path, shape, required))
    except FileNotFoundError:
        lines = []
    records = [line.record for line in lines if line.record is not None]
    return records, len(lines) - len(records)

"""The files a run is known by: metrics.jsonl, events.jsonl and learning.jsonl, one strict JSON object a line."""

import contextlib
import io
import json
import os
from collections.abc import Container
from pathlib import Path
from typing import Any

from esper import files
from esper.files import open_own, open_to_append, parse_json
from esper.files.reading import MOST_LINE_BYTES
from esper.files.records import EVENTS_FILE, LEARNING_FILE, METRICS_FILE
from esper.leyline import TelemetryEvent


class JsonlSink:
    """Appends to a run directory's files; every line is in the system's hands on return.

    learning.jsonl comes with the first update: a run whose policy does not learn has none.

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

    def epoch(self, record: dict[str, Any]) -> None:
        """Append one epoch."""
        self._metrics.append(record)

    def update(self, record: dict[str, Any]) -> None:
        """Append one update of the policy."""
        if self._learning is None:
            self._learning = _LineFile(self._run_dir / LEARNING_FILE)
        self._learning.append(record)

    def event(self, event: TelemetryEvent) -> None:
        """Append one event."""
        self._events.append(event.to_dict())

    def close(self, status: str) -> None:
        """Close the files."""
        for file in (self._metrics, self._events, self._learning):
            if file is not None:
                file.close()


class _LineFile:
    def __init__(self, path: Path) -> None:
        # Unbuffered, so that nothing of a line is left behind to fail a second time on close.
        self._file = open_to_append(path)

    def append(self, record: dict[str, Any]) -> None:
        line = json.dumps(record, allow_nan=False, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
        start = self._file.tell()
        try:
            written = 0
            while written < len(line):
                written += self._file.write(line[written:])
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(start)
            raise

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


def cut_back(run_dir: Path | str, *, metrics: int = -1, events: int = -1, learning: int = 0) -> None:
    """Drop all that the files say of epochs and updates after these, and anything from the first unreadable line on.

    For resuming: what follows the checkpoint will be lived through, and written, again.
    """
    ends = {METRICS_FILE: ("epoch", metrics), EVENTS_FILE: ("epoch", events), LEARNING_FILE: ("update", learning)}
    for name, (key, last) in ends.items():
        path = Path(run_dir) / name
        if not path.exists():
            continue
        keep = 0
        with io.FileIO(open_own(path, os.O_RDWR), "r+b") as file:
            lines = io.BufferedReader(file)
            while (line := lines.readline(MOST_LINE_BYTES)).endswith(b"\n") and _is_up_to(line, key, last):
                keep += len(line)
            os.ftruncate(file.fileno(), keep)


def _is_up_to(line: bytes, key: str, last: int) -> bool:
    try:
        record = parse_json(line)
    except ValueError:
        return False
    return isinstance(record, dict) and isinstance(record.get(key), int) and record[key] <= last

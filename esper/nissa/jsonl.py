"""The files a run is known by: metrics.jsonl and events.jsonl, one strict JSON object a line."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from esper.leyline import TelemetryEvent

METRICS_FILE = "metrics.jsonl"
EVENTS_FILE = "events.jsonl"


class JsonlSink:
    """Appends to metrics.jsonl and events.jsonl in a run directory; every line is in the system's hands on return.

    Raises:
        OSError: the line could not be written (a full disk); the files still end with their last whole line.
        ValueError: a record holds NaN or infinity, which JSON has not.
    """

    essential = True

    def __init__(self, run_dir: Path | str) -> None:
        run_dir = Path(run_dir)
        self._metrics = _LineFile(run_dir / METRICS_FILE)
        self._events = _LineFile(run_dir / EVENTS_FILE)

    def epoch(self, record: dict[str, Any]) -> None:
        """Append one epoch."""
        self._metrics.append(record)

    def event(self, event: TelemetryEvent) -> None:
        """Append one event."""
        self._events.append(event.to_dict())

    def close(self, status: str) -> None:
        """Close both files."""
        self._metrics.close()
        self._events.close()


class _LineFile:
    def __init__(self, path: Path) -> None:
        # Unbuffered, so that nothing of a line is left behind to fail a second time on close.
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115

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


def read_jsonl(path: Path | str) -> tuple[list[dict[str, Any]], int]:
    """Every readable object of a file and the number of lines that were none (a killed run may end in half a line).

    A file that does not exist reads as empty.
    """
    records: list[dict[str, Any]] = []
    unreadable = 0
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return records, unreadable
    for line in text.split("\n"):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            records.append(record)
        else:
            unreadable += 1
    return records, unreadable


def cut_back(run_dir: Path | str, epoch: int) -> None:
    """Drop all that both files say about epochs after this one, and anything from the first unreadable line on.

    For resuming: what follows the checkpoint will be lived through, and written, again.
    """
    for name in (METRICS_FILE, EVENTS_FILE):
        path = Path(run_dir) / name
        if not path.exists():
            continue
        keep = 0
        with open(path, "rb") as lines:
            for line in lines:
                if not line.endswith(b"\n") or not _is_up_to(line, epoch):
                    break
                keep += len(line)
        os.truncate(path, keep)


def _is_up_to(line: bytes, epoch: int) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and isinstance(record.get("epoch"), int) and record["epoch"] <= epoch

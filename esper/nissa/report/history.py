"""A run directory read back: config, run.json and the JSONL files, as arrays and lists."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from esper.errors import FormatError, RunError
from esper.files import fitting, read_bytes, read_object
from esper.files.reading import MOST_YAML_BYTES
from esper.files.records import (
    CONFIG_FILE,
    EPOCH,
    EPOCH_NEEDS,
    EVENT,
    EVENT_NEEDS,
    EVENTS_FILE,
    LEARNING_FILE,
    METRICS_FILE,
    RUN,
    RUN_FILE,
    UPDATE,
    UPDATE_NEEDS,
)
from esper.leyline import ScoreKind, recorded_kind
from esper.nissa.record_view import kind_of
from esper.nissa.sinks.jsonl import read_jsonl


@dataclass
class RunHistory:
    """What a run wrote down so far. Times are the recorded epochs in order, epoch 0 (untrained) included."""

    run_dir: Path
    run: dict[str, Any]
    config_text: str
    records: list[dict[str, Any]]
    events: list[dict[str, Any]]
    updates: list[dict[str, Any]]
    unreadable_lines: int = 0
    problems: list[str] = field(default_factory=list)  # what of run.json cannot be used, and why

    @cached_property
    def epochs(self) -> np.ndarray:
        """Recorded epochs, ascending. [T]"""
        return np.array([record["epoch"] for record in self.records], dtype=int)

    @cached_property
    def grown(self) -> list[int]:
        """Members that may grow."""
        return [member for member, twin_of in self._members.items() if twin_of is None]

    @cached_property
    def twins(self) -> dict[int, int]:
        """Static twin by the member whose twin it is."""
        return {twin_of: member for member, twin_of in self._members.items() if twin_of is not None}

    @cached_property
    def slots(self) -> list[str]:
        """Slot names in the order of the records."""
        names = (name for record in self.records for member in record["members"] for name in member["slots"])
        return list(dict.fromkeys(names))

    @cached_property
    def score(self) -> ScoreKind:
        """What its members are judged by."""
        summary = self.run.get("summary") or {}
        return kind_of(self.records[0]) if self.records else recorded_kind(summary.get("grown") or {})

    @property
    def status(self) -> str:
        """From run.json; "unknown" where that is missing."""
        return str(self.run.get("status", "unknown"))

    @property
    def max_epochs(self) -> int:
        """Epochs the run was to last, or lasted so far where run.json does not say."""
        last = int(self.epochs[-1]) if self.records else 0
        return max(int(self.run.get("max_epochs") or 0), last)

    def series(self, members: Sequence[int], key: str) -> np.ndarray:
        """One metric of some members over time, NaN where null. [M, T]"""
        return self._array([self.member_series(member, key) for member in members])

    def member_series(self, member: int, key: str) -> list[Any]:
        """One metric of one member over time, as recorded."""
        return [self._cell(row, member).get(key) for row in self._rows]

    def slot_series(self, member: int, slot: str, key: str) -> list[Any]:
        """One metric of one slot over time, as recorded."""
        return [self._cell(row, member).get("slots", {}).get(slot, {}).get(key) for row in self._rows]

    def epoch_series(self, key: str) -> np.ndarray:
        """One metric of the whole population over time, NaN where null. [T]"""
        return self._array([record.get(key) for record in self.records])

    def update_series(self, key: str) -> np.ndarray:
        """One metric of the policy over its updates, NaN where null or not there. [U]"""
        return self._array([record.get(key) for record in self.updates])

    @cached_property
    def _rows(self) -> list[dict[int, dict[str, Any]]]:
        return [{member["member"]: member for member in record["members"]} for record in self.records]

    @cached_property
    def last(self) -> dict[int, dict[str, Any]]:
        """What was last recorded of each member."""
        return {member: row for rows in self._rows for member, row in rows.items()}

    @property
    def _members(self) -> dict[int, int | None]:
        return {member: row.get("twin_of") for member, row in self.last.items()}

    def _cell(self, row: dict[int, dict[str, Any]], member: int) -> dict[str, Any]:
        return row.get(member, {})

    def _array(self, values: list[Any]) -> np.ndarray:
        return np.array(values, dtype=float)  # None becomes NaN


def read_run(run_dir: Path | str) -> RunHistory:
    """Read a run directory, finished or not; files that are missing or end in half a line read as far as they go.

    Raises:
        RunError: the folder holds nothing that a run writes.
    """
    run_dir = Path(run_dir)
    records, torn_records = read_jsonl(run_dir / METRICS_FILE, EPOCH, EPOCH_NEEDS)
    events, torn_events = read_jsonl(run_dir / EVENTS_FILE, EVENT, EVENT_NEEDS)
    updates, torn_updates = read_jsonl(run_dir / LEARNING_FILE, UPDATE, UPDATE_NEEDS)
    run, problems = _read_record(run_dir / RUN_FILE)
    if not run and not records and not updates:
        raise RunError(
            f"{run_dir} is not a run directory: it holds neither run.json nor {METRICS_FILE}. "
            "Give the folder that a run printed at its end, outputs/<name>/<id>."
        )
    return RunHistory(
        run_dir=run_dir,
        run=run,
        config_text=_read_text(run_dir / CONFIG_FILE),
        records=_in_order(records, "epoch"),
        events=events,
        updates=_in_order(updates, "update"),
        unreadable_lines=torn_records + torn_events + torn_updates,
        problems=problems,
    )


def _in_order(records: list[dict[str, Any]], number: str) -> list[dict[str, Any]]:
    """One record of each number: the last one."""
    by_number = {record[number]: record for record in records}
    return [by_number[at] for at in sorted(by_number)]


def _read_record(path: Path) -> tuple[dict[str, Any], list[str]]:
    """What of run.json is as it should be, and what is not."""
    try:
        record, problems = fitting(read_object(path), RUN)
    except FileNotFoundError:
        return {}, []
    except (OSError, FormatError) as error:
        return {}, [f"{path.name} cannot be read: {getattr(error, 'strerror', None) or error}"]
    return record, [f"{path.name}: {problem}" for problem in problems]


def _read_text(path: Path) -> str:
    """A file as text, whatever it holds; nothing where there is none of readable size."""
    try:
        return read_bytes(path, MOST_YAML_BYTES).decode(errors="replace")
    except (OSError, FormatError):
        return ""

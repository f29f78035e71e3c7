"""What phases log, told once: to the JSON lines and to every dashboard."""

import math
from collections.abc import Sequence
from pathlib import Path

from esper.files.records import LEARNING_FILE, UPDATE, UPDATE_NEEDS
from esper.leyline import Sink
from esper.nissa import EventHub, JsonlSink, cut_back, read_jsonl

SCHEMA_VERSION = 1


class ForgeLog:
    """Metrics of a whole way, as `<phase>/<name>`, one line a step; lines are numbered through as updates.

    A phase that goes on from its checkpoint lives again through steps that are logged already; they come out the same,
    and are not logged twice.
    """

    def __init__(self, folder: Path, dashboards: Sequence[Sink] = ()) -> None:
        self._path = folder / LEARNING_FILE
        records, _ = read_jsonl(self._path, UPDATE, UPDATE_NEEDS)
        self._count = max((record["update"] for record in records), default=0)
        self._last: dict[frozenset[str], float] = {}
        for record in records:
            names = frozenset(name for name in record if "/" in name)
            self._last[names] = record.get("step") or 0
        cut_back(folder, learning=self._count)  # a kill may have left half a line
        self.hub = EventHub([JsonlSink(folder), *dashboards])

    def begin_anew(self, phase: str) -> None:
        """What is logged of a phase from here on counts from its first step again."""
        self._last = {names: step for names, step in self._last.items() if not _is_of(names, phase)}

    def write(self, phase: str, step: int, **metrics: float) -> None:
        """Log numbers of a step of a phase."""
        named = {f"{phase}/{name}": value for name, value in metrics.items() if math.isfinite(value)}
        names = frozenset(named)
        if not named or step <= self._last.get(names, -1):
            return
        self._last[names] = step
        self._count += 1
        self.hub.update({"schema": SCHEMA_VERSION, "update": self._count, "step": step, **named})


def _is_of(names: frozenset[str], phase: str) -> bool:
    return any(name.startswith(f"{phase}/") for name in names)

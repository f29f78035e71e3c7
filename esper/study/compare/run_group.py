"""A group of runs that differ in nothing but their seeds, and what of a configuration tells groups apart."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from esper.config.store import VOLATILE
from esper.leyline import ScoreKind
from esper.nissa.report.history import RunHistory

Host = tuple[int, int]  # (seed, member)
GROWN = "grown"
# Parts of a configuration that decide nothing about what is measured, and what of them does all the same.
_ASIDE = (*VOLATILE, "seed", "controls", "engine", "debug")
_NEVERTHELESS = ("engine.precision", "engine.governor.")
HOW_MANY = ("engine.members", "controls")


@dataclass(slots=True)
class GroupedRun:
    """A run of a group: what it wrote, what it was configured as, and its grown members by number."""

    history: RunHistory
    config: dict[str, Any]

    @property
    def folder(self) -> Path:
        return self.history.run_dir

    @property
    def seed(self) -> int:
        given = (self.config.get("seed"), self.history.run.get("seed"))
        return next((seed for seed in given if type(seed) is int), 0)

    @property
    def hosts(self) -> list[int]:
        """Grown members, from the first epoch's line or, without one, as many as the summary has."""
        figures = (self.history.run.get("summary") or {}).get("grown") or {}
        return self.history.grown or list(range(max(map(len, figures.values()), default=0)))

    def final(self, name: str, who: str = GROWN) -> list[float | None]:
        """One figure of the summary, member by member; empty as long as there is none."""
        return ((self.history.run.get("summary") or {}).get(who) or {}).get(name) or []


@dataclass
class RunGroup:
    """Runs of one configuration, each of its own seed."""

    label: str
    runs: list[GroupedRun]

    @property
    def config(self) -> dict[str, Any]:
        """The configuration, by dotted key."""
        return self.runs[0].config

    @property
    def score(self) -> ScoreKind:
        """What its members are judged by."""
        return self.runs[0].history.score

    @cached_property
    def epochs(self) -> np.ndarray:
        """The epochs that any of its runs has recorded. [T]"""
        return np.unique(np.concatenate([run.history.epochs for run in self.runs]))

    def finals(self, name: str) -> dict[Host, float]:
        """One figure of the summaries, host by host.

        "twin/parameters" is one of a control's, "twin/gain" the test score over the control's.
        """
        found: dict[Host, float | None] = {}
        who, _, figure = name.rpartition("/")
        for run in self.runs:
            values = run.final(f"test_{self.score.name}" if figure == "gain" else figure, who or GROWN)
            if figure == "gain":
                grown = run.final(f"test_{self.score.name}")
                values = [_minus(mine, other) for mine, other in zip(grown, values, strict=False)]
            found |= {(run.seed, host): value for host, value in zip(run.hosts, values, strict=False)}
        return {host: float(value) for host, value in found.items() if value is not None}

    def curves(self, key: str) -> dict[Host, np.ndarray]:
        """One metric of metrics.jsonl, host by host, over `epochs`; NaN where nothing was measured. [T] each"""
        found = {}
        for run in self.runs:
            at = np.searchsorted(self.epochs, run.history.epochs)
            for host in run.history.grown:
                values = np.full(len(self.epochs), np.nan)
                values[at] = np.array(run.history.member_series(host, key), dtype=float)
                found[run.seed, host] = values
        return found

    def a_host(self, name: str) -> float | None:
        """Seeds "planted", "culled" or "fossilized", a host; None as long as no run has a summary."""
        tested = [run for run in self.runs if run.history.run.get("summary")]
        hosts = sum(len(run.hosts) for run in tested)
        counts = [((run.history.run["summary"]).get("seeds") or {}).get(name, 0) for run in tested]
        return sum(counts) / hosts if hosts else None

    @property
    def wall_s(self) -> float:
        """Seconds that its runs took together; runs that trained as one program share its time."""
        records = [run.history.run for run in self.runs]
        return sum(float(record.get("wall_s") or 0.0) / max(record.get("together") or 1, 1) for record in records)


def decides(key: str) -> bool:
    """Whether a key, or a group, of a configuration decides what is measured; the seed is no such key."""
    return key.partition(".")[0] not in _ASIDE or key.startswith(_NEVERTHELESS)


def differ(values: Iterable[Any]) -> bool:
    """Whether any of them is unlike the first."""
    given = list(values)
    return any(value != given[0] for value in given)


def _minus(mine: float | None, other: float | None) -> float | None:
    return None if mine is None or other is None else mine - other

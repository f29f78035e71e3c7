"""Results of an analysis: versions as they were measured, and policies, which several training runs may stand for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from esper.nissa.statistics import (
    Interval,
    bootstrap_interval,
    improvement_probability,
    interquartile_mean,
    mean_gain,
    mean_interval,
    table_mean,
)
from esper.study.evaluate.measures import MEASURES

SHORT = 8  # of a sha256, where people read it


@dataclass(frozen=True, slots=True)
class VersionResult:
    """One version under one suite. values: metric -> held-out seed -> mean over that seed's hosts.

    seed: that its run had. failed: held-out seed -> its error.
    """

    sha256: str
    policy: str
    task: dict[str, Any]
    seed: int | None
    checkpoints: list[str]
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What people name it by on a command line."""
        return self.sha256[:SHORT]

    def mean(self, metric: str) -> float | None:
        """Over held-out seeds; None where the metric was not measured."""
        values = self.values.get(metric)
        return sum(values.values()) / len(values) if values else None


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """One policy under one suite: a row of the tables. runs: a version for each seed that it was trained on.

    Of a single run a mean is one of independent values; of several, values are crossed, runs by held-out seeds, and
    those count that all runs have been measured on.
    """

    title: str
    runs: list[VersionResult]

    @property
    def policy(self) -> str:
        """Its option's name."""
        return self.runs[0].policy

    @property
    def task(self) -> dict[str, Any]:
        """What its hosts train on."""
        return self.runs[0].task

    @property
    def label(self) -> str:
        """The version, or how many there are."""
        return self.runs[0].label if len(self.runs) == 1 else f"{len(self.runs)} versions"

    @property
    def failed(self) -> int:
        """Evaluations that have."""
        return sum(len(run.failed) for run in self.runs)

    def seeds(self, metric: str) -> list[int]:
        """The held-out seeds that all its runs have a value of, but for runs that have none at all."""
        measured = self._measured(metric)
        return sorted(set.intersection(*(set(values) for values in measured))) if measured else []

    def table(self, metric: str, seeds: Sequence[int] | None = None) -> np.ndarray:
        """[R, S]: a row a run, a column a held-out seed."""
        wanted = self.seeds(metric) if seeds is None else seeds
        rows = [[values[seed] for seed in wanted] for values in self._measured(metric)]
        return np.array(rows, dtype=float).reshape(len(rows), len(wanted))

    def interval(self, metric: str) -> Interval:
        """Mean and its interval; of no values where the metric was not measured."""
        table = self.table(metric)
        if len(table) < 2:
            return mean_interval(table.flat, within=MEASURES[metric].within)
        return bootstrap_interval(table_mean, table)

    def interquartile(self, metric: str) -> Interval:
        """Interquartile mean and its interval."""
        return bootstrap_interval(interquartile_mean, self.table(metric))

    def difference(self, reference: "PolicyResult", metric: str) -> Interval | None:
        """Mean of this less the reference's, paired by held-out seed; None where they have not the same task."""
        pairs = self._paired(reference, metric)
        if pairs is None:
            return None
        mine, other = pairs
        if len(mine) < 2 and len(other) < 2:
            return mean_interval((mine - other).flat if mine.size and other.size else ())
        return bootstrap_interval(mean_gain, mine, other)

    def improvement(self, reference: "PolicyResult", metric: str) -> Interval | None:
        """How likely it does better than the reference on a held-out seed, 0 to 1.

        None where neither more nor less of the metric is better, or tasks differ.
        """
        pairs, better = self._paired(reference, metric), MEASURES[metric].better
        if pairs is None or not better:
            return None
        return bootstrap_interval(improvement_probability, *(better * table for table in pairs))

    def _paired(self, reference: "PolicyResult", metric: str) -> tuple[np.ndarray, np.ndarray] | None:
        if self.task != reference.task:
            return None
        seeds = sorted({*self.seeds(metric)} & {*reference.seeds(metric)})
        return self.table(metric, seeds), reference.table(metric, seeds)

    def _measured(self, metric: str) -> list[dict[int, float]]:
        finite = [
            {seed: value for seed, value in run.values.get(metric, {}).items() if math.isfinite(value)}
            for run in self.runs
        ]
        return [values for values in finite if values]

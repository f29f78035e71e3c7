"""RunGroups measured by each other: means and differences with their intervals, paired wherever that can be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from esper.nissa.statistics import ACCURACY, FEWEST, Interval, mean_interval, paired_difference
from esper.study.compare.sides import Host, RunGroup, RunGroups

Unit = tuple[int, ...]  # (seed,) or (seed, member)
Curves = dict[Unit, np.ndarray]
# What makes the first weights and the data of a host: where these are the same, hosts of the same seed and number pair.
_WORLD = ("task.", "host.", "batch_size", "engine.precision")


@dataclass(frozen=True, slots=True)
class Measure:
    """Something that sides are compared by. `decimals` of a value and of a difference."""

    name: str
    title: str
    unit: str = ""
    decimals: int = 1
    within: tuple[float, float] = (0.0, np.inf)


@dataclass(frozen=True, slots=True)
class Difference:
    """A side minus the first one; `is_paired`: unit by unit, else of two independent means."""

    interval: Interval
    is_paired: bool

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval tells that there is a difference."""
        low, high = self.interval.low, self.interval.high
        return low is not None and high is not None and (low > 0 or high < 0)


@dataclass
class Comparison:
    """RunGroups and what came of them. A seed is counted as one; a host only where no side has more than one seed."""

    given: RunGroups

    @property
    def sides(self) -> list[RunGroup]:
        return self.given.sides

    @cached_property
    def is_by_seed(self) -> bool:
        """Hosts of one seed see the same data in the same order: only seeds are independent of each other."""
        return any(len(side.runs) > 1 for side in self.sides)

    @property
    def unit(self) -> str:
        """What n counts."""
        return "seeds" if self.is_by_seed else "hosts"

    @cached_property
    def last_epoch(self) -> int:
        """The last epoch that every run has recorded; -1 where one has recorded none."""
        recorded = [set(run.history.epochs.tolist()) for side in self.sides for run in side.runs]
        return max(set.intersection(*recorded), default=-1)

    @cached_property
    def measures(self) -> list[Measure]:
        """Those that every side has a value for; the first is what sides are judged by."""
        possible = [
            Measure("test_accuracy", "test accuracy", "%", within=ACCURACY),
            Measure("val_accuracy", f"validation accuracy, epoch {self.last_epoch}", "%", within=ACCURACY),
            Measure("gain", "over static twins", within=(-np.inf, np.inf)),
            Measure("test_bits_per_byte", "test bits/byte", decimals=3),
            Measure("parameters", "parameters", decimals=0),
            Measure("flops_per_sample", "FLOPs a sample", decimals=0),
        ]
        return [measure for measure in possible if all(self.values(side, measure.name) for side in self.sides)]

    def values(self, side: RunGroup, name: str) -> dict[Unit, float]:
        """One measure of a side, unit by unit."""
        found = self._together({host: np.array(value) for host, value in self._of_hosts(side, name).items()})
        return {unit: float(value) for unit, value in found.items() if np.isfinite(value)}

    def curves(self, side: RunGroup, key: str) -> Curves:
        """One metric over the side's epochs, unit by unit."""
        return self._together(side.curves(key))

    def mean(self, side: RunGroup, measure: Measure) -> Interval:
        """Of a measure, over units."""
        return mean_interval(self.values(side, measure.name).values(), within=measure.within)

    def difference(self, side: RunGroup, measure: Measure) -> Difference:
        """A side minus the first."""
        return differ(self.values(side, measure.name), self.values(self.sides[0], measure.name), self.pairs(side))

    def pairs(self, side: RunGroup) -> bool:
        """Whether this side's hosts began as the first side's did, and saw the same data."""
        first = self.sides[0].config
        keys = [key for key in {**first, **side.config} if key.startswith(_WORLD)]
        return bool(keys) and all(first.get(key) == side.config.get(key) for key in keys)

    def _of_hosts(self, side: RunGroup, name: str) -> dict[Host, float]:
        if name == "val_accuracy":
            at = np.searchsorted(side.epochs, self.last_epoch)
            curves = side.curves(name) if self.last_epoch >= 0 else {}
            return {host: float(curve[at]) for host, curve in curves.items()}
        key = {"parameters": "parameter_count"}.get(name, name)
        return side.finals(name) or {host: _last(curve) for host, curve in side.curves(key).items()}

    def _together(self, hosts: Mapping[Host, np.ndarray]) -> Curves:
        """Hosts as they are, or the means of each seed's."""
        if not self.is_by_seed:
            return dict(hosts)
        by_seed: dict[Unit, list[np.ndarray]] = {}
        for (seed, _), values in hosts.items():
            by_seed.setdefault((seed,), []).append(values)
        return {unit: np.mean(values, axis=0) for unit, values in by_seed.items()}


def differ(mine: Mapping[Unit, float], other: Mapping[Unit, float], can_pair: bool) -> Difference:
    """`mine` minus `other`: over the units that both have, where those pair and are enough; else of the two means."""
    shared = sorted(mine.keys() & other.keys())
    if can_pair and (len(shared) >= FEWEST or len(shared) == len(mine) == len(other)):
        pairs = paired_difference([mine[unit] for unit in shared], [other[unit] for unit in shared])
        return Difference(pairs, is_paired=True)
    return Difference(unpaired_difference(list(mine.values()), list(other.values())), is_paired=False)


def unpaired_difference(first: Sequence[float], second: Sequence[float], confidence: float = 0.95) -> Interval:
    """Difference of two independent means with Welch's t-interval, which takes no variance for equal to another's.

    `n` is that of the smaller one; `low` and `high` are None where one has fewer than three values. Source: Welch 1947,
    "The generalization of Student's problem when several different population variances are involved".
    """
    from scipy.special import stdtrit

    one, two = np.array(first, dtype=float), np.array(second, dtype=float)
    smaller = min(one.size, two.size)
    if not smaller:
        return Interval(None, None, None, 0)
    mean = float(one.mean() - two.mean())
    if smaller < FEWEST:
        return Interval(mean, None, None, smaller)
    a, b = one.var(ddof=1) / one.size, two.var(ddof=1) / two.size
    if not a + b:
        return Interval(mean, mean, mean, smaller)
    freedom = (a + b) ** 2 / (a**2 / (one.size - 1) + b**2 / (two.size - 1))
    half = float(stdtrit(freedom, 0.5 + confidence / 2) * np.sqrt(a + b))
    return Interval(mean, mean - half, mean + half, smaller)


def _last(curve: np.ndarray) -> float:
    known = curve[np.isfinite(curve)]
    return float(known[-1]) if known.size else float("nan")

"""Groups of runs measured by each other: means and differences with their intervals, paired wherever that can be."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from esper.errors import RunError
from esper.leyline import SCORE_KINDS, ScoreKind
from esper.leyline.controls import TITLES
from esper.nissa.statistics import (
    FEWEST,
    Interval,
    mean_interval,
    paired_difference,
    unpaired_difference,
)
from esper.study.compare.groups import RunGroups
from esper.study.compare.run_group import Host, RunGroup
from esper.study.measure import Measure, is_score

Unit = tuple[int, ...]  # (seed,) or (seed, member)
Curves = dict[Unit, np.ndarray]
# What makes the first weights and the data of a host: where these are the same, hosts of the same seed and number pair.
_WORLD = ("task.", "host.", "batch_size", "engine.precision")


@dataclass(frozen=True, slots=True)
class Difference:
    """A group minus the first one; `is_paired`: unit by unit, else of two independent means."""

    interval: Interval
    is_paired: bool

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval tells that there is a difference."""
        low, high = self.interval.low, self.interval.high
        return low is not None and high is not None and (low > 0 or high < 0)


@dataclass
class Comparison:
    """Groups of runs and what came of them. A seed counts as one; a host only where no group has several seeds."""

    given: RunGroups

    @property
    def groups(self) -> list[RunGroup]:
        return self.given.groups

    @cached_property
    def is_by_seed(self) -> bool:
        """Hosts of one seed see the same data in the same order: only seeds are independent of each other."""
        return any(len(group.runs) > 1 for group in self.groups)

    @property
    def unit(self) -> str:
        """What n counts."""
        return "seeds" if self.is_by_seed else "hosts"

    @cached_property
    def last_epoch(self) -> int:
        """The last epoch that every run has recorded; -1 where one has recorded none."""
        recorded = [set(run.history.epochs.tolist()) for group in self.groups for run in group.runs]
        return max(set.intersection(*recorded), default=-1)

    @cached_property
    def score(self) -> ScoreKind:
        """What the first group's members are judged by."""
        return self.groups[0].score

    @cached_property
    def measures(self) -> list[Measure]:
        """Those that every group has a value for; the first is what groups are judged by."""
        possible = [Measure(f"test_{kind.name}", f"test {kind.title}", "%", within=kind.within) for kind in SCORE_KINDS]
        for kind in SCORE_KINDS:
            title = f"validation {kind.title}, epoch {self.last_epoch}"
            possible.append(Measure(f"val_{kind.name}", title, "%", within=kind.within))
        possible += [
            *(
                Measure(f"{control}/gain", f"over {title}", within=(-np.inf, np.inf))
                for control, title in TITLES.items()
            ),
            Measure("test_rmse", "test RMSE", decimals=3),
            Measure("test_bits_per_byte", "test bits/byte", decimals=3),
            Measure("parameters", "parameters", decimals=0),
            Measure("flops_per_sample", "FLOPs a sample", decimals=0),
            Measure("training_flops", "training FLOPs", decimals=0),
        ]
        found = [measure for measure in possible if all(self.values(group, measure.name) for group in self.groups)]
        if not found:
            raise RunError("these runs have no figure in common; give runs of the same kind, that were finished")
        return found

    def values(self, group: RunGroup, name: str) -> dict[Unit, float]:
        """One measure of a group, unit by unit."""
        found = self.by_unit({host: np.array(value) for host, value in self._of_hosts(group, name).items()})
        return {unit: float(value) for unit, value in found.items() if np.isfinite(value)}

    def curves(self, group: RunGroup, key: str) -> Curves:
        """One metric over the group's epochs, unit by unit."""
        return self.by_unit(group.curves(key))

    @property
    def having(self) -> str:
        """Which means have an interval: "all", "some" or "none"; none has one of fewer than three units."""
        found = {self.mean(group, self.measures[0]).low is not None for group in self.groups}
        return "some" if len(found) > 1 else "all" if True in found else "none"

    def interval_note(self, what: str) -> str:
        """Which means have intervals, or bands, in words: "with 95% bands", "without bands, which take three seeds"."""
        with_them, without = f"with 95% {what}", f"without {what}, which take three {self.unit}"
        return {"all": with_them, "some": f"{with_them} from three {self.unit} on", "none": without}[self.having]

    def mean(self, group: RunGroup, measure: Measure) -> Interval:
        """Of a measure, over units."""
        return mean_interval(self.values(group, measure.name).values(), within=measure.within)

    def controls(self, group: RunGroup) -> dict[str, list[Interval | None]]:
        """By title, what a group's controls came to: its members' gains are shown beside these.

        A figure for each of `measures`; none of validation, which is that of an epoch.
        """
        found = {}
        for control, title in TITLES.items():
            own = [
                {} if measure.name.startswith("val_") else self.values(group, f"{control}/{measure.name}")
                for measure in self.measures
            ]
            if any(own):
                found[title] = [
                    mean_interval(values.values(), within=measure.within) if values else None
                    for values, measure in zip(own, self.measures, strict=True)
                ]
        return found

    def difference(self, group: RunGroup, measure: Measure) -> Difference:
        """A group minus the first."""
        return differ(self.values(group, measure.name), self.values(self.groups[0], measure.name), self.pairs(group))

    def pairs(self, group: RunGroup) -> bool:
        """Whether this group's hosts began as the first group's did, and saw the same data."""
        first = self.groups[0].config
        keys = [key for key in {**first, **group.config} if key.startswith(_WORLD)]
        return bool(keys) and all(first.get(key) == group.config.get(key) for key in keys)

    def _of_hosts(self, group: RunGroup, name: str) -> dict[Host, float]:
        if is_score(name) and name.startswith("val_"):
            at = np.searchsorted(group.epochs, self.last_epoch)
            curves = group.curves(name) if self.last_epoch >= 0 else {}
            return {host: float(curve[at]) for host, curve in curves.items()}
        key = {"parameters": "parameter_count"}.get(name, name)
        return group.finals(name) or {host: _last(curve) for host, curve in group.curves(key).items()}

    def by_unit(self, hosts: Mapping[Host, np.ndarray]) -> Curves:
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


def _last(curve: np.ndarray) -> float:
    known = curve[np.isfinite(curve)]
    return float(known[-1]) if known.size else float("nan")

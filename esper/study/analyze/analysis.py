"""What evaluations add up to: a mean over seeds for each version under each suite, and differences seed by seed."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from esper.checks import did_you_mean
from esper.config.checks import flat
from esper.errors import EsperError
from esper.nissa.statistics import Interval, mean_interval
from esper.study.evaluate.database import Evaluations
from esper.study.evaluate.measures import MEASURES

_SHORT = 8  # of a sha256, where people read it
_FEWEST_DIGITS = 4  # of a sha256 that means a version
_MOST_NAMED = 3  # runs, in an error
_MOST_KEYS = 2  # of a configuration, that tell versions apart in a title


@dataclass(frozen=True, slots=True)
class VersionResult:
    """One version under one suite. values: metric -> seed -> mean over that seed's hosts; failed: seed -> its error.

    title: its policy, and where others have the same one, what tells it from them.
    """

    sha256: str
    policy: str
    title: str
    task: dict[str, Any]
    checkpoints: list[str]
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What people name it by on a command line."""
        return self.sha256[:_SHORT]

    def mean(self, metric: str) -> float | None:
        """Over seeds; None where the metric was not measured."""
        values = self.values.get(metric)
        return sum(values.values()) / len(values) if values else None

    def interval(self, metric: str) -> Interval:
        """Mean over seeds and its interval; of no values where the metric was not measured."""
        return mean_interval(self.values.get(metric, {}).values(), within=MEASURES[metric].within)

    def difference(self, reference: "VersionResult", metric: str) -> Interval | None:
        """This less the reference, paired by seed; None where the two were not measured on the same task."""
        if self.task != reference.task:
            return None
        mine, other = self.values.get(metric, {}), reference.values.get(metric, {})
        return mean_interval(mine[seed] - other[seed] for seed in sorted(mine.keys() & other.keys()))


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """What one suite says of versions; the first is the one that others are compared with."""

    suite: str
    suite_sha256: str
    versions: list[VersionResult]

    @property
    def metrics(self) -> list[str]:
        """Those that any of the versions has, in the order of the glossary."""
        return [name for name in MEASURES if any(name in row.values for row in self.versions)]

    @property
    def main_metric(self) -> str:
        """What versions are judged by, where all have it: bits per byte, R-squared; else accuracy."""
        measured = [row.values for row in self.versions if row.values]
        for name in ("test_bits_per_byte", "test_r2"):
            if measured and all(name in values for values in measured):
                return name
        return "test_accuracy"


def summarize(database: Evaluations, targets: Sequence[str], suite: str | None) -> list[SuiteResult]:
    """What the database says of these versions (none: all), suite by suite.

    targets: the beginning of a version's sha256, or a run: its folder, or part of its path, with or without @epoch-N.
    suite: the name of one. The order of the targets is that of the versions; without any, the best comes first. Raises
    EsperError naming the nearest where there is no such version or suite.
    """
    chosen = _chosen(database, targets)
    by_id = {version["id"]: version for version in chosen}
    titles = _titles(list(by_id.values()))
    suites = _suites(database.suites(), suite)
    rows: dict[tuple[int, int], VersionResult] = {}
    for evaluation in database.evaluations(by_id, suites):
        key = (evaluation["suite"], evaluation["version"])
        if key not in rows:
            rows[key] = _row(by_id[evaluation["version"]], titles[evaluation["version"]])
        _count(rows[key], evaluation)
    results = []
    for number, row in suites.items():
        found = [rows[number, version] for version in by_id if (number, version) in rows]
        if found:
            result = SuiteResult(row["name"], row["sha256"], found)
            if not targets:
                found.sort(key=_goodness(result.main_metric))
            results.append(result)
    return results


def checkpoints(database: Evaluations, targets: Sequence[str]) -> list[str]:
    """Where these versions (none: all) lie, one of the runs of each, as `esper evaluate` takes them."""
    return [name for version in _chosen(database, targets) for name in _checkpoints(version)[:1]]


def _chosen(database: Evaluations, targets: Sequence[str]) -> list[dict[str, Any]]:
    versions = database.versions()
    return [version for target in targets for version in _named(target, versions)] if targets else versions


def _suites(rows: Sequence[dict[str, Any]], wanted: str | None) -> dict[int, dict[str, Any]]:
    """Suites by their number; of several contents that a name has had, the present one."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(row["name"], []).append(row)
    if wanted is not None and wanted not in by_name:
        from esper.config.suite import suites

        if wanted not in suites():
            known = sorted({*by_name, *suites()})
            raise EsperError(
                f"suite {wanted}: there is no such suite{did_you_mean(wanted, known)}\n  suites: {', '.join(known)}"
            )
    chosen = [_present(same) for name, same in by_name.items() if wanted in (None, name)]
    return {row["id"]: row for row in chosen}


def _present(same: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of suites of one name: the one that is shipped, else the one that was used last for the first time."""
    if len(same) > 1:
        from esper.checkpoint.plain import fingerprint
        from esper.config.suite import read_suite, suites

        if same[0]["name"] in suites():
            now = fingerprint(read_suite(same[0]["name"]).content())
            return next((row for row in same if row["sha256"] == now), same[-1])
    return same[-1]


def _row(version: dict[str, Any], title: str) -> VersionResult:
    return VersionResult(version["sha256"], version["policy"], title, version["config"]["task"], _checkpoints(version))


def _checkpoints(version: dict[str, Any]) -> list[str]:
    return [f"{source['path']}@epoch-{source['epoch']}" for source in version["sources"]]


def _titles(versions: Sequence[dict[str, Any]]) -> dict[int, str]:
    """Version -> "ppo"; where others have that policy too, "ppo, seed 1", or with its checkpoint, or its sha256."""
    titles: dict[int, str] = {}
    by_policy: dict[str, list[dict[str, Any]]] = {}
    for version in versions:
        by_policy.setdefault(version["policy"], []).append(version)
    for policy, same in by_policy.items():
        texts = _differences(same) if len(same) > 1 else [""]
        if len(set(texts)) < len(same):
            texts = [" ".join(name.rpartition("/")[2] for name in _checkpoints(version)[:1]) for version in same]
        if len(set(texts)) < len(same):
            texts = [version["sha256"][:_SHORT] for version in same]
        for version, words in zip(same, texts, strict=True):
            titles[version["id"]] = ", ".join(filter(None, (policy, words)))
    return titles


def _differences(versions: Sequence[dict[str, Any]]) -> list[str]:
    """What tells the configurations apart, as in "seed 1"; nothing where that takes many keys."""
    from esper.config.store import VOLATILE  # brings Hydra, and is seldom needed

    configs = [flat(version["config"]) for version in versions]
    known = dict.fromkeys(key for config in configs for key in config if key.partition(".")[0] not in VOLATILE)
    keys = [key for key in known if any(config.get(key) != configs[0].get(key) for config in configs)]
    if len(keys) > _MOST_KEYS:
        return [""] * len(versions)
    return [", ".join(f"{key.rpartition('.')[2]} {config.get(key)}" for key in keys) for config in configs]


def _count(row: VersionResult, evaluation: dict[str, Any]) -> None:
    if evaluation["status"] == "failed":
        row.failed[evaluation["seed"]] = evaluation["error"]
        return
    for metric, value in (evaluation["metrics"] | {"wall_s": evaluation["wall_s"]}).items():
        row.values.setdefault(metric, {})[evaluation["seed"]] = value


def _goodness(metric: str) -> Callable[[VersionResult], float]:
    sign = 1.0 if metric == "test_bits_per_byte" else -1.0

    def key(row: VersionResult) -> float:
        mean = row.mean(metric)
        return math.inf if mean is None else sign * mean

    return key


def _named(target: str, versions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The version of this sha256, or all versions of this run."""
    is_digits = len(target) >= _FEWEST_DIGITS and set(target) <= set("0123456789abcdef")
    begun = [version for version in versions if is_digits and version["sha256"].startswith(target)]
    if len(begun) > 1:
        raise EsperError(f"{target}: {len(begun)} versions begin like that\n  write more of it")
    return begun or _of_run(target, versions)


def _of_run(target: str, versions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    name, _, epoch = target.partition("@epoch-")
    sources = [(version, source) for version in versions for source in version["sources"]]
    exact = [pair for pair in sources if _is_run(name, pair[1])]
    meant = exact or [pair for pair in sources if name.strip("/") in pair[1]["path"]]
    if len({source["uid"] for _, source in meant}) > 1:
        paths = ", ".join(sorted({source["path"] for _, source in meant})[:_MOST_NAMED])
        raise EsperError(f"{target}: several runs have that in their path: {paths}\n  write more of it")
    found = [version for version, source in meant if epoch in ("", str(source["epoch"]))]
    if not found:
        known = [version["sha256"][:_SHORT] for version in versions]
        known += [part for _, source in sources for part in (source["path"], Path(source["path"]).name)]
        raise EsperError(
            f"{target}: nothing of that name was evaluated{did_you_mean(target, known)}\n"
            "  expected a run (with or without @epoch-N) or a version that esper analyze lists"
        )
    return found


def _is_run(name: str, source: dict[str, Any]) -> bool:
    path = Path(source["path"])
    return name in (source["uid"], path.name) or Path(name).resolve() == path.resolve()

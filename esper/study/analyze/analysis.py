"""What evaluations add up to, suite by suite: the versions that are asked for, as policies."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper.checks import did_you_mean
from esper.errors import EsperError
from esper.study.analyze.policies import checkpoints_of, policies_of, titles_of
from esper.study.analyze.results import SHORT, PolicyResult, VersionResult
from esper.study.evaluate.database import Evaluations
from esper.study.evaluate.measures import MEASURES

_FEWEST_DIGITS = 4  # of a sha256 that means a version
_MOST_NAMED = 3  # runs, in an error


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """What one suite says of policies; the first is the one that others are compared with."""

    suite: str
    suite_sha256: str
    policies: list[PolicyResult]

    @property
    def versions(self) -> list[VersionResult]:
        """Of all policies."""
        return [run for row in self.policies for run in row.runs]

    @property
    def metrics(self) -> list[str]:
        """Those that any of the versions has, in the order of the glossary."""
        return [name for name in MEASURES if any(name in run.values for run in self.versions)]

    @property
    def main_metric(self) -> str:
        """What policies are judged by, where all have it: bits per byte, R-squared; else accuracy."""
        measured = [run.values for run in self.versions if run.values]
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
    policies = policies_of(list(by_id.values()))
    titles = titles_of(policies)
    suites = _suites(database.suites(), suite)
    rows: dict[tuple[int, int], VersionResult] = {}
    for evaluation in database.evaluations(by_id, suites):
        key = (evaluation["suite"], evaluation["version"])
        if key not in rows:
            rows[key] = _row(by_id[evaluation["version"]])
        _count(rows[key], evaluation)
    results = []
    for number, row in suites.items():
        found = []
        for title, versions in zip(titles, policies, strict=True):
            runs = [rows[number, version["id"]] for version in versions if (number, version["id"]) in rows]
            found += [PolicyResult(title, runs)] if runs else []
        if found:
            result = SuiteResult(row["name"], row["sha256"], found)
            if not targets:
                found.sort(key=_goodness(result.main_metric))
            results.append(result)
    return results


def checkpoints(database: Evaluations, targets: Sequence[str]) -> list[str]:
    """Where these versions (none: all) lie, one of the runs of each, as `esper evaluate` takes them."""
    return [name for version in _chosen(database, targets) for name in checkpoints_of(version)[:1]]


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


def _row(version: dict[str, Any]) -> VersionResult:
    config = version["config"]
    name, paths = version["policy"], checkpoints_of(version)
    return VersionResult(version["sha256"], name, config["task"], config.get("seed"), paths)


def _count(row: VersionResult, evaluation: dict[str, Any]) -> None:
    if evaluation["status"] == "failed":
        row.failed[evaluation["seed"]] = evaluation["error"]
        return
    for metric, value in (evaluation["metrics"] | {"wall_s": evaluation["wall_s"]}).items():
        row.values.setdefault(metric, {})[evaluation["seed"]] = value


def _goodness(metric: str) -> Callable[[PolicyResult], float]:
    def key(row: PolicyResult) -> float:
        mean = row.interval(metric).mean
        return math.inf if mean is None else -MEASURES[metric].better * mean

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
        known = [version["sha256"][:SHORT] for version in versions]
        known += [part for _, source in sources for part in (source["path"], Path(source["path"]).name)]
        raise EsperError(
            f"{target}: nothing of that name was evaluated{did_you_mean(target, known)}\n"
            "  expected a run (with or without @epoch-N) or a version that esper analyze lists"
        )
    return found


def _is_run(name: str, source: dict[str, Any]) -> bool:
    path = Path(source["path"])
    return name in (source["uid"], path.name) or Path(name).resolve() == path.resolve()

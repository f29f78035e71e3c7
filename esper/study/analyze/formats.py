"""An analysis for programs: as JSON, and as CSV."""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from esper.nissa.statistics import Interval
from esper.study.analyze.analysis import SuiteResult
from esper.study.analyze.results import PolicyResult


def plain(results: Sequence[SuiteResult]) -> list[dict[str, Any]]:
    """Everything, as JSON values: metrics in the units in which they are stored."""
    found = []
    for result in results:
        first, alone = result.policies[0], {run.sha256: PolicyResult("", [run]) for run in result.versions}
        reference = alone[first.runs[0].sha256]
        found.append(
            {
                "suite": result.suite,
                "suite_sha256": result.suite_sha256,
                "reference": reference.runs[0].sha256,
                "versions": [
                    {
                        "sha256": run.sha256,
                        "policy": run.policy,
                        "task": run.task,
                        "seed": run.seed,
                        "checkpoints": run.checkpoints,
                        "failed": {str(seed): error for seed, error in sorted(run.failed.items())},
                        "metrics": {
                            name: _figures(alone[run.sha256], reference, name)
                            | {"seeds": {str(seed): value for seed, value in sorted(run.values[name].items())}}
                            for name in result.metrics
                            if name in run.values
                        },
                    }
                    for run in result.versions
                ],
                "policies": [
                    {
                        "title": row.title,
                        "versions": [run.sha256 for run in row.runs],
                        "metrics": {
                            name: _figures(row, first, name)
                            | {"runs": len(row.table(name)), "seeds": len(row.seeds(name))}
                            | {"iqm": row.interquartile(name).to_dict(), "improvement": _improved(row, first, name)}
                            for name in result.metrics
                            if row.seeds(name)
                        },
                    }
                    for row in result.policies
                ],
            }
        )
    return found


def _figures(row: PolicyResult, reference: PolicyResult, metric: str) -> dict[str, Any]:
    return row.interval(metric).to_dict() | {"difference": _plain(_gap(row, reference, metric))}


def _improved(row: PolicyResult, reference: PolicyResult, metric: str) -> dict[str, Any] | None:
    return None if row is reference else _plain(row.improvement(reference, metric))


def _plain(interval: Interval | None) -> dict[str, Any] | None:
    return None if interval is None else interval.to_dict()


def as_json(results: Sequence[SuiteResult]) -> str:
    """`plain`, spelled."""
    return json.dumps({"schema": 1, "suites": plain(results)}, indent=1, allow_nan=False) + "\n"


def as_csv(results: Sequence[SuiteResult], metrics: Sequence[str]) -> str:
    """One line a policy, suite and metric; difference and improvement are to the suite's first policy."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ("mean", "low", "high")
    writer.writerow(
        ["suite", "version", "policy", "task", "checkpoint", "metric", "n", "failed", *names, "reference", "pairs"]
        + [f"{what}_{name}" for what in ("difference", "iqm", "improvement") for name in names]
        + ["runs"]
    )
    nothing = Interval(None, None, None, 0)
    for result in results:
        first = result.policies[0]
        for row in result.policies:
            for metric in metrics or result.metrics:
                found = row.interval(metric)
                gap = _gap(row, first, metric) or nothing
                better = (None if row is first else row.improvement(first, metric)) or nothing
                pairs = 0 if row is first or gap.mean is None else len({*row.seeds(metric)} & {*first.seeds(metric)})
                writer.writerow(
                    (
                        *(result.suite, " ".join(run.sha256 for run in row.runs), row.policy, row.task["name"]),
                        *(" ".join(name for run in row.runs for name in run.checkpoints), metric),
                        *(len(row.seeds(metric)), row.failed, found.mean, found.low, found.high),
                        *(" ".join(run.sha256 for run in first.runs), pairs),
                        *(getattr(one, name) for one in (gap, row.interquartile(metric), better) for name in names),
                        len(row.table(metric)),
                    )
                )
    return out.getvalue()


def _gap(row: PolicyResult, reference: PolicyResult, metric: str) -> Interval | None:
    return None if row is reference else row.difference(reference, metric)

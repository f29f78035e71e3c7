"""Tables of an analysis: their columns, and how markdown, CSV and JSON spell them."""

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import Any

from esper.nissa.statistics import Interval
from esper.study.analyze.analysis import SuiteResult, VersionResult
from esper.study.evaluate.measures import MEASURES
from esper.study.measure import Measure

_WITH_INTERVAL = ("test_accuracy", "test_r2", "test_rmse", "test_bits_per_byte", "val_accuracy", "val_r2")
TITLES = ("policy", "less")  # headings of columns that name versions begin so
Columns = list[tuple[str, list[str]]]  # heading, a cell a row


def footnote(results: Sequence[SuiteResult]) -> str:
    """How to read the tables."""
    has_any = any(row.values for result in results for row in result.versions)
    return (
        "Means over seeds (of each, the mean of its hosts), 95% intervals (Student's t) from three seeds on."
        if has_any
        else ""
    )


def markdown(results: Sequence[SuiteResult], metrics: Sequence[str]) -> str:
    """One section a suite."""
    parts = []
    for result in results:
        parts += [f"## Suite {result.suite}", *_markdown_table(columns(result, metrics))]
        parts += [
            part
            for metric in compared(result, metrics)
            if (gaps := differences(result, metric))
            for part in _markdown_table(gaps)
        ]
        lines = [f"- `{row.label}`: {', '.join(f'`{name}`' for name in row.checkpoints)}" for row in result.versions]
        lines += [
            f"- `{row.label}` failed: {error} ({spelled_seeds(seeds)})"
            for row in result.versions
            for error, seeds in errors(row).items()
        ]
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, footnote(results)]).rstrip() + "\n"


def plain(results: Sequence[SuiteResult]) -> list[dict[str, Any]]:
    """Everything, as JSON values: metrics in the units in which they are stored."""
    return [
        {
            "suite": result.suite,
            "suite_sha256": result.suite_sha256,
            "reference": result.versions[0].sha256,
            "versions": [
                {
                    "sha256": row.sha256,
                    "policy": row.policy,
                    "task": row.task,
                    "checkpoints": row.checkpoints,
                    "failed": {str(seed): error for seed, error in sorted(row.failed.items())},
                    "metrics": {
                        name: row.interval(name).to_dict()
                        | {"difference": None if (gap := _gap(row, result, name)) is None else gap.to_dict()}
                        | {"seeds": {str(seed): value for seed, value in sorted(row.values[name].items())}}
                        for name in result.metrics
                        if name in row.values
                    },
                }
                for row in result.versions
            ],
        }
        for result in results
    ]


def as_json(results: Sequence[SuiteResult]) -> str:
    """`plain`, spelled."""
    return json.dumps({"schema": 1, "suites": plain(results)}, indent=1, allow_nan=False) + "\n"


def as_csv(results: Sequence[SuiteResult], metrics: Sequence[str]) -> str:
    """One line a version, suite and metric; the difference is to the suite's first version."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ("mean", "low", "high")
    writer.writerow(
        ["suite", "version", "policy", "task", "checkpoint", "metric", "n", "failed", *names, "reference", "pairs"]
        + [f"difference_{name}" for name in names]
    )
    for result in results:
        for row in result.versions:
            for metric in metrics or result.metrics:
                found = row.interval(metric)
                gap = _gap(row, result, metric) or Interval(None, None, None, 0)
                writer.writerow(
                    (
                        *(
                            result.suite,
                            row.sha256,
                            row.policy,
                            row.task["name"],
                            " ".join(row.checkpoints),
                            metric,
                        ),
                        *(found.n, len(row.failed), found.mean, found.low, found.high),
                        *(result.versions[0].sha256, gap.n, gap.mean, gap.low, gap.high),
                    )
                )
    return out.getvalue()


# ---- columns and cells


def columns(result: SuiteResult, metrics: Sequence[str], dropped: Sequence[str] = ()) -> Columns:
    """One row a version. metrics: those to show, none: the usual ones but for the dropped."""
    rows, main = result.versions, result.main_metric
    usual = [main, *(name for name in result.metrics if name != main and name not in dropped)]
    shown = [MEASURES[name] for name in metrics or usual]
    found = [("version", [row.label for row in rows]), ("policy", [row.title for row in rows])]
    found.append(("n", [_count(row) for row in rows]))
    for measure in shown:
        cell = _whole_cell if metrics or measure.name in _WITH_INTERVAL else _mean_cell
        found.append((measure.heading, [cell(row, measure) for row in rows]))
    return found


def differences(result: SuiteResult, metric: str) -> Columns:
    """Of a metric, less the first version's; empty where there is nothing to compare."""
    reference, measure = result.versions[0], MEASURES[metric]
    gaps = [(row, row.difference(reference, metric)) for row in result.versions[1:]]
    known = [(row, gap) for row, gap in gaps if gap is not None and gap.n]
    if not known:
        return []
    unit = "points" if measure.is_score else measure.unit
    return [
        (f"less\n{reference.title}", [row.title for row, _ in known]),
        ("pairs", [str(gap.n) for _, gap in known]),
        (
            ", ".join(filter(None, (measure.title, unit))),
            [_scaled(gap, measure).text(measure.decimals, signed=True) for _, gap in known],
        ),
        ("excludes\nzero", [_excludes_zero(gap) for _, gap in known]),
    ]


def compared(result: SuiteResult, metrics: Sequence[str]) -> Sequence[str]:
    """The metrics whose differences are shown."""
    return metrics or [result.main_metric]


def _gap(row: VersionResult, result: SuiteResult, metric: str) -> Interval | None:
    return None if row is result.versions[0] else row.difference(result.versions[0], metric)


def _count(row: VersionResult) -> str:
    seeds = len(row.values.get("wall_s", {}))
    return f"{seeds} ({len(row.failed)} failed)" if row.failed else str(seeds)


def _whole_cell(row: VersionResult, measure: Measure) -> str:
    return _scaled(row.interval(measure.name), measure).text(measure.decimals)


def _mean_cell(row: VersionResult, measure: Measure) -> str:
    mean = row.mean(measure.name)
    return "-" if mean is None else f"{mean * measure.scale:,.{measure.decimals}f}"


def _scaled(interval: Interval, measure: Measure) -> Interval:
    mean, low, high = (
        None if value is None else value * measure.scale for value in (interval.mean, interval.low, interval.high)
    )
    return Interval(mean, low, high, interval.n)


def _excludes_zero(gap: Interval) -> str:
    if gap.low is None or gap.high is None:
        return "-"
    return "yes" if gap.low > 0 or gap.high < 0 else "no"


def errors(row: VersionResult) -> dict[str, list[int]]:
    """error -> the seeds that failed with it."""
    found: dict[str, list[int]] = {}
    for seed, error in sorted(row.failed.items()):
        found.setdefault(" ".join(error.split()), []).append(seed)
    return found


def spelled_seeds(seeds: Sequence[int]) -> str:
    """The first one, and how many there are."""
    return f"seed {seeds[0]}" + (f" and {len(seeds) - 1} more" if len(seeds) > 1 else "")


def _markdown_table(shown: Columns) -> list[str]:
    lines = [
        "| " + " | ".join(heading.replace("\n", " ") for heading, _ in shown) + " |",
        "|" + "---|" * len(shown),
    ]
    for cells in zip(*(cells for _, cells in shown), strict=True):
        lines.append("| " + " | ".join(re.sub(r"\|", r"\\|", cell) for cell in cells) + " |")
    return ["\n".join(lines)]

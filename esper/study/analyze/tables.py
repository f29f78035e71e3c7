"""Tables of an analysis: their columns, and how markdown spells them."""

import re
from collections.abc import Sequence

from esper.nissa.statistics import Interval
from esper.study.analyze.analysis import SuiteResult
from esper.study.analyze.results import PolicyResult, VersionResult
from esper.study.evaluate.measures import MEASURES
from esper.study.measure import Measure

_WITH_INTERVAL = ("test_accuracy", "test_r2", "test_rmse", "test_bits_per_byte", "val_accuracy", "val_r2")
IQM, BETTER = "IQM", "better"  # headings of columns that a narrow terminal goes without
TITLES = ("policy", "less")  # headings of columns that name policies begin so
Columns = list[tuple[str, list[str]]]  # heading, a cell a row


def footnote(results: Sequence[SuiteResult]) -> list[str]:
    """How to read the tables, in lines."""
    runs = [run for result in results for run in result.versions if run.values]
    if not runs:
        return []
    lines = [
        "Means over seeds (of each, the mean of its hosts), 95% intervals (Student's t) from three seeds on.",
        "IQM: interquartile mean, the mean of the middle half, with a bootstrapped interval.",
        "Better: how likely it does better on a seed than the first policy, a tie counting half.",
    ]
    if any(len(row.runs) > 1 for result in results for row in result.policies):
        lines.append("Of a policy with several training runs all intervals are bootstrapped, over runs and seeds.")
    return lines


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
        lines = []
        for row in result.policies:
            for run in row.runs:
                paths = ", ".join(f"`{name}`" for name in run.checkpoints)
                lines.append(" ".join(filter(None, (f"- `{run.label}`:", own_mean(row, run, result), paths))))
        lines += [
            f"- `{run.label}` failed: {error} ({spelled_seeds(seeds)})"
            for run in result.versions
            for error, seeds in errors(run).items()
        ]
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, "\n".join(footnote(results))]).rstrip() + "\n"


# ---- columns and cells


def columns(result: SuiteResult, metrics: Sequence[str], dropped: Sequence[str] = ()) -> Columns:
    """One row a policy. metrics: those to show, none: the usual ones; dropped: of the columns, those to leave out."""
    rows, main = result.policies, result.main_metric
    usual = [main, *(name for name in result.metrics if name != main and name not in dropped)]
    found = [("version", [row.label for row in rows]), ("policy", [row.title for row in rows])]
    found += [("runs", [str(len(row.runs)) for row in rows]), ("seeds", [_count(row) for row in rows])]
    for measure in (MEASURES[name] for name in metrics or usual):
        cell = _whole_cell if metrics or measure.name in _WITH_INTERVAL else _mean_cell
        found.append((measure.heading, [cell(row, measure) for row in rows]))
        if measure.better and IQM not in dropped and (metrics or measure.name == main):
            found.append((IQM, [_spelled(row.interquartile(measure.name), measure) for row in rows]))
    return found


def differences(result: SuiteResult, metric: str, dropped: Sequence[str] = ()) -> Columns:
    """Of a metric, less the first policy's; empty where there is nothing to compare."""
    reference, measure = result.policies[0], MEASURES[metric]
    gaps = [(row, row.difference(reference, metric)) for row in result.policies[1:]]
    known = [(row, gap) for row, gap in gaps if gap is not None and gap.n]
    if not known:
        return []
    unit = "points" if measure.is_score else measure.unit
    shown = [
        (f"less\n{reference.title}", [row.title for row, _ in known]),
        ("pairs", [str(len({*row.seeds(metric)} & {*reference.seeds(metric)})) for row, _ in known]),
        (
            ", ".join(filter(None, (measure.title, unit))),
            [_scaled(gap, measure).text(measure.decimals, signed=True) for _, gap in known],
        ),
        ("excludes\nzero", [_excludes_zero(gap) for _, gap in known]),
    ]
    if measure.better and BETTER not in dropped:
        chances = [row.improvement(reference, metric) for row, _ in known]
        shown.append((BETTER, ["-" if chance is None else chance.text(2) for chance in chances]))
    return shown


def compared(result: SuiteResult, metrics: Sequence[str]) -> Sequence[str]:
    """The metrics whose differences are shown."""
    return metrics or [result.main_metric]


def own_mean(row: PolicyResult, run: VersionResult, result: SuiteResult) -> str:
    """What a training run came to by itself; nothing to say of the only one."""
    measure = MEASURES[result.main_metric]
    return _mean_cell(PolicyResult("", [run]), measure) + (measure.unit or "") if len(row.runs) > 1 else ""


def _count(row: PolicyResult) -> str:
    seeds = len(row.seeds("wall_s"))
    return f"{seeds} ({row.failed} failed)" if row.failed else str(seeds)


def _whole_cell(row: PolicyResult, measure: Measure) -> str:
    return _spelled(row.interval(measure.name), measure)


def _spelled(interval: Interval, measure: Measure) -> str:
    return _scaled(interval, measure).text(measure.decimals)


def _mean_cell(row: PolicyResult, measure: Measure) -> str:
    mean = row.interval(measure.name).mean
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

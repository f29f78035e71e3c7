"""The pictures of a comparison: curves over each other, every unit a dot, what was bought with how many parameters."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from esper.nissa.formatting import compact, signed
from esper.nissa.palette import SERIES_COLOURS
from esper.nissa.report import plots
from esper.nissa.report.history import RunHistory
from esper.nissa.report.plots import Plot, over_epochs, picture, span, text_width
from esper.nissa.statistics import mean_band
from esper.study.compare.comparison import Comparison, Curves
from esper.study.compare.run_group import Host, RunGroup
from esper.study.measure import Measure

MOST_CURVES = SERIES_COLOURS
_LONGEST_LABEL = 24
_IN_PLACE = ("BLENDING", "PROBATIONARY", "FOSSILIZED")
_ROW_HEIGHT = 44


def tint(comparison: Comparison, group: RunGroup) -> str:
    """The colour of a group, by the name that the theme has for it."""
    return f"series{comparison.groups.index(group) % SERIES_COLOURS}"


def drawn(comparison: Comparison) -> list[RunGroup]:
    """The groups whose curves are drawn: as many as can be told apart, the first and the best."""
    first, *others = comparison.groups
    if len(others) < MOST_CURVES:
        return comparison.groups
    best = sorted(others, key=lambda group: -(comparison.mean(group, comparison.measures[0]).mean or 0.0))
    return [first, *(group for group in others if group in best[: MOST_CURVES - 1])]


def score(comparison: Comparison) -> str:
    """Validation score of each group over epochs, means with their bands."""
    kind = comparison.score

    def scores(group: RunGroup) -> Curves:
        return comparison.curves(group, f"val_{kind.name}")

    def fit(values: np.ndarray) -> tuple[float, float]:
        return span(values, *kind.within)

    return _curves(comparison, scores, f"validation {kind.title}, %", (700, 360), "{:.1f}".format, fit)


def difference(comparison: Comparison) -> str:
    """Validation score of each other group minus the first one's, unit by unit; empty where none pairs."""
    first, key = comparison.groups[0], f"val_{comparison.score.name}"

    def minus_first(group: RunGroup) -> Curves:
        mine, other = comparison.curves(group, key), comparison.curves(first, key)
        shared, at, there = np.intersect1d(group.epochs, first.epochs, return_indices=True)
        found = {unit: mine[unit][at] - other[unit][there] for unit in mine.keys() & other.keys()}
        whole = {unit: np.full(len(group.epochs), np.nan) for unit in found}
        for unit, values in found.items():
            whole[unit][at] = values
        return whole if len(shared) else {}

    others = [group for group in drawn(comparison)[1:] if comparison.pairs(group) and minus_first(group)]
    if not others:
        return ""

    what = f"minus {_short(first.label)}, points"
    return _curves(
        comparison,
        minus_first,
        what,
        (530, 340),
        signed,
        lambda values: span(np.append(values, 0), least=plots.LEAST_POINTS),
        others,
    )


def parameters(comparison: Comparison) -> str:
    """Mean parameters of each group over epochs."""
    return _curves(
        comparison,
        lambda group: comparison.curves(group, "parameter_count"),
        "parameters",
        (530, 290),
        compact,
        _from_zero,
    )


def in_place(comparison: Comparison) -> str:
    """How many seeds have a share in the output, a host; empty where no group ever had one."""

    def count(group: RunGroup) -> Curves:
        found: dict[Host, np.ndarray] = {}
        for run in group.runs:
            at = np.searchsorted(group.epochs, run.history.epochs)
            for host in run.history.grown:
                stages = [run.history.slot_series(host, slot, "stage") for slot in run.history.slots]  # [S, T]
                found[run.seed, host] = np.full(len(group.epochs), np.nan)
                found[run.seed, host][at] = np.isin(np.array(stages, dtype=object), _IN_PLACE).sum(axis=0)
        return comparison.by_unit(found)

    if not any(curve[np.isfinite(curve)].any() for group in comparison.groups for curve in count(group).values()):
        return ""
    what = "seeds that have a share in the output, a host"
    return _curves(comparison, count, what, (530, 290), "{:.1f}".format, _from_zero)


def spread(comparison: Comparison, measure: Measure, width: int) -> str:
    """One row a group: every unit a dot, the mean in its interval."""
    groups = comparison.groups[::-1]
    values = [np.array(list(comparison.values(group, measure.name).values())) for group in groups]
    means = [comparison.mean(group, measure) for group in groups]
    ends = np.array([end for mean in means for end in (mean.low, mean.high)], dtype=float)  # None becomes NaN
    size = (width, max(360 if width < 500 else 0, 70 + _ROW_HEIGHT * len(groups)))
    x, y = span(np.concatenate([*values, ends])), (-0.5, len(groups) - 0.25)
    plot = Plot(measure.heading, x, y, size, across="", rows=[""] * len(groups))
    for row, (group, mean) in enumerate(zip(groups, means, strict=True)):
        shade = _colour(comparison, group)
        plot.dots(values[row], np.full(len(values[row]), row - 0.12), shade, 2.6, opacity=0.3)
        if mean.low is not None and mean.high is not None:
            plot.lines(np.array([mean.low, mean.high]), np.full(2, row + 0.1), shade, 3)
        plot.dots(np.array([values[row].mean()]), np.array([row + 0.1]), shade, 3.7)
        plot.names(-np.inf, [(row + 0.36, _short(group.label), shade)])
    return picture(f"{measure.title} of each group, every one of its {comparison.unit} a dot", plot)


def bought(comparison: Comparison, measure: Measure) -> str:
    """What groups are judged by against parameters: units small, means large; empty where all are of one size."""
    size = next((measure for measure in comparison.measures if measure.name == "parameters"), None)
    if size is None or measure is size:
        return ""
    points = {group.label: _shared(comparison, group, size, measure) for group in comparison.groups}
    sizes = np.concatenate([xs for xs, _ in points.values()])
    if not sizes.size or np.ptp(sizes) == 0:
        return ""

    values = np.concatenate([ys for _, ys in points.values()])
    plot = Plot(measure.heading, span(sizes), span(values), (530, 340), across="parameters")
    for group in comparison.groups:
        xs, ys = points[group.label]
        plot.dots(xs, ys, _colour(comparison, group), 2.6, opacity=0.3)
        plot.dots(np.array([xs.mean()]), np.array([ys.mean()]), _colour(comparison, group), 5.3)
    return picture(f"{measure.title} against parameters", plot)


def returns(comparison: Comparison) -> str:
    """Mean return of the episodes learned from, over updates; empty where no policy learned."""
    learned = [(group, run) for group in drawn(comparison) for run in group.runs if len(run.history.updates) > 1]
    if not learned:
        return ""
    curves = [(run.history.update_series("update"), run.history.update_series("return_mean")) for _, run in learned]
    last = max(updates[-1] for updates, _ in curves)
    ends = {
        group.label: (values[np.isfinite(values)][-1], _short(group.label), _colour(comparison, group))
        for (group, _), (_, values) in zip(learned, curves, strict=True)
        if np.isfinite(values).any()
    }
    x, y = (min(updates[0] for updates, _ in curves), last), span(np.concatenate([values for _, values in curves]))
    plot = Plot("return of an episode", x, y, (1100, 300), across="update", right=_room(ends.values()))
    for (group, _), (updates, values) in zip(learned, curves, strict=True):
        plot.lines(updates, values, _colour(comparison, group), 1.8)
    plot.names(last, ends.values())
    return picture("Mean return over the updates of each policy", plot)


def _curves(
    comparison: Comparison,
    curves_of: Callable[[RunGroup], Curves],
    what: str,
    size: tuple[int, int],
    spelled: Callable[[float], str],
    fit: Callable[[np.ndarray], tuple[float, float]],
    groups: Sequence[RunGroup] = (),
) -> str:
    """Means of groups over epochs with their bands. fit: the range shown, of all values there are."""
    found = [(group, curves_of(group)) for group in groups or drawn(comparison)]
    bands = [(group, mean_band(np.array(list(curves.values())))) for group, curves in found if curves]
    ends = []
    for group, (mean, _, _) in bands:
        last = mean[np.isfinite(mean)][-1]
        ends.append((last, f"{_short(group.label)} {spelled(last)}", _colour(comparison, group)))
    y = fit(np.concatenate([values for _, band in bands for values in band]))
    plot = over_epochs(_longest(comparison), what, y, size, right=_room(ends))
    if y[0] < 0:
        plot.level(0.0, _colour(comparison, comparison.groups[0]))
    for group, (mean, low, high) in bands:
        plot.band(group.epochs, low, high, _colour(comparison, group), opacity=0.15)
        plot.lines(group.epochs, mean, _colour(comparison, group), 2.4)
    plot.names(max(group.epochs[-1] for group, _ in bands), ends)
    return picture(f"{what}, over epochs", plot)


def _colour(comparison: Comparison, group: RunGroup) -> str:
    return plots.tint(tint(comparison, group))


def _room(ends: Iterable[tuple[float, str, str]]) -> float:
    """Pixels for the names of curves, in bold."""
    return 12 + 1.1 * max((text_width(text) for _, text, _ in ends), default=0)


def _shared(comparison: Comparison, group: RunGroup, *measures: Measure) -> list[np.ndarray]:
    """Two measures of the units that have both."""
    one, two = (comparison.values(group, measure.name) for measure in measures)
    units = [unit for unit in one if unit in two]
    return [np.array([values[unit] for unit in units]) for values in (one, two)]


def _longest(comparison: Comparison) -> RunHistory:
    histories = [run.history for group in comparison.groups for run in group.runs]
    return max(histories, key=lambda history: history.max_epochs)


def _from_zero(values: np.ndarray) -> tuple[float, float]:
    return 0.0, span(values)[1]


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…"

"""The pictures of a comparison: curves over each other, every unit a dot, what was bought with how many parameters."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from esper.nissa.drawing import draw, end_labels, epoch_axes, limit
from esper.nissa.history import RunHistory
from esper.nissa.palette import SERIES_COLOURS, colour
from esper.nissa.statistics import mean_band
from esper.nissa.text import compact, signed
from esper.study.comparison import Comparison, Curves, Measure
from esper.study.sides import Side

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CURVES = SERIES_COLOURS
_LONGEST_LABEL = 24
_IN_PLACE = ("BLENDING", "PROBATIONARY", "FOSSILIZED")
_ROW_HEIGHT = 44


def tint(comparison: Comparison, side: Side) -> str:
    """The colour of a side, by the name that the theme has for it."""
    return f"series{comparison.sides.index(side) % SERIES_COLOURS}"


def drawn(comparison: Comparison) -> list[Side]:
    """The sides whose curves are drawn: as many as can be told apart, the first and the best."""
    first, *others = comparison.sides
    if len(others) < MOST_CURVES:
        return comparison.sides
    best = sorted(others, key=lambda side: -(comparison.mean(side, comparison.measures[0]).mean or 0.0))
    return [first, *(side for side in others if side in best[: MOST_CURVES - 1])]


def accuracy(comparison: Comparison) -> str:
    """Validation accuracy of each side over epochs, means with 95% bands."""

    def end(value: float) -> str:
        return f"{value:.1f}"

    def fit(axes: "Axes", values: list[np.ndarray]) -> None:
        limit(axes, np.concatenate(values), 0.0, 100.0)

    what = "validation accuracy, %"
    return _curves(comparison, lambda side: comparison.curves(side, "val_accuracy"), what, 700, 360, end, fit)


def difference(comparison: Comparison) -> str:
    """Validation accuracy of each other side minus the first one's, unit by unit; empty where none pairs."""
    first = comparison.sides[0]

    def minus_first(side: Side) -> Curves:
        mine, other = comparison.curves(side, "val_accuracy"), comparison.curves(first, "val_accuracy")
        shared, at, there = np.intersect1d(side.epochs, first.epochs, return_indices=True)
        found = {unit: mine[unit][at] - other[unit][there] for unit in mine.keys() & other.keys()}
        whole = {unit: np.full(len(side.epochs), np.nan) for unit in found}
        for unit, values in found.items():
            whole[unit][at] = values
        return whole if len(shared) else {}

    others = [side for side in drawn(comparison)[1:] if comparison.pairs(side) and minus_first(side)]
    if not others:
        return ""

    def fit(axes: "Axes", values: list[np.ndarray]) -> None:
        axes.axhline(0, color=colour(tint(comparison, first)), linewidth=1.2)
        limit(axes, np.append(np.concatenate(values), 0.0))

    what = f"minus {_short(first.label)}, points"
    return _curves(comparison, minus_first, what, 530, 340, signed, fit, others)


def parameters(comparison: Comparison) -> str:
    """Mean parameters of each side over epochs."""
    return _curves(
        comparison, lambda side: comparison.curves(side, "parameter_count"), "parameters", 530, 290, compact, _from_zero
    )


def in_place(comparison: Comparison) -> str:
    """How many seeds have a share in the output, a host; empty where no side ever had one."""

    def count(side: Side) -> Curves:
        found: Curves = {}
        for run in side.runs:
            at = np.searchsorted(side.epochs, run.history.epochs)
            for host in run.history.grown:
                stages = [run.history.slot_series(host, slot, "stage") for slot in run.history.slots]  # [S, T]
                found[run.seed, host] = np.full(len(side.epochs), np.nan)
                found[run.seed, host][at] = np.isin(np.array(stages, dtype=object), _IN_PLACE).sum(axis=0)
        return found

    if not any(curve[np.isfinite(curve)].any() for side in comparison.sides for curve in count(side).values()):
        return ""
    what = "seeds that have a share in the output, a host"
    return _curves(comparison, count, what, 530, 290, lambda value: f"{value:.1f}", _from_zero)


def spread(comparison: Comparison, measure: Measure, width: int) -> str:
    """One row a side: every unit a dot, the mean in its 95% interval."""
    sides = comparison.sides

    def paint(figure: "Figure") -> None:
        axes = figure.subplots()
        for row, side in enumerate(reversed(sides)):
            shade = colour(tint(comparison, side))
            values = np.array(list(comparison.values(side, measure.name).values()))
            axes.scatter(values, np.full(len(values), row - 0.12), s=26, color=shade, alpha=0.4, linewidth=0)
            mean = comparison.mean(side, measure)
            if mean.low is not None and mean.high is not None:
                axes.hlines(row + 0.1, mean.low, mean.high, color=shade, linewidth=3)
            axes.scatter([values.mean()], [row + 0.1], s=44, color=shade, zorder=3)
            label = _short(side.label)
            axes.annotate(label, (0, row + 0.3), xycoords=("axes fraction", "data"), color=shade, fontweight="bold")
        axes.set_yticks([])
        axes.set_ylim(-0.5, len(sides) - 0.25)
        axes.spines["left"].set_visible(False)
        axes.locator_params(axis="x", nbins=5)
        axes.set_title(f"{measure.title}{measure.unit and ', ' + measure.unit}", loc="left", color=colour("muted"))

    height = max(360 if width < 500 else 0, 60 + _ROW_HEIGHT * len(sides))
    return draw(paint, width, height, f"{measure.title} of each side, every one of its {comparison.unit} a dot")


def bought(comparison: Comparison, measure: Measure) -> str:
    """What sides are judged by against parameters: units small, means large; empty where all are of one size."""
    size = next((measure for measure in comparison.measures if measure.name == "parameters"), None)
    if size is None or measure is size:
        return ""
    points = {side.label: _shared(comparison, side, size, measure) for side in comparison.sides}
    sizes = np.concatenate([xs for xs, _ in points.values()])
    if not sizes.size or np.ptp(sizes) == 0:
        return ""

    def paint(figure: "Figure") -> None:
        axes = figure.subplots()
        for side in comparison.sides:
            xs, ys = points[side.label]
            shade = colour(tint(comparison, side))
            axes.scatter(xs, ys, s=26, color=shade, alpha=0.4, linewidth=0)
            axes.scatter([xs.mean()], [ys.mean()], s=90, color=shade, zorder=3)
        axes.xaxis.set_major_formatter(lambda value, _: compact(value))
        axes.locator_params(axis="x", nbins=6)
        axes.set_xlabel("parameters")
        axes.margins(x=0.08)
        axes.set_title(f"{measure.title}{measure.unit and ', ' + measure.unit}", loc="left", color=colour("muted"))

    return draw(paint, 530, 340, f"{measure.title} against parameters")


def returns(comparison: Comparison) -> str:
    """Mean return of the episodes learned from, over updates; empty where no policy learned."""
    learned = [side for side in drawn(comparison) if any(len(run.history.updates) > 1 for run in side.runs)]
    if not learned:
        return ""

    def paint(figure: "Figure") -> None:
        axes = figure.subplots()
        ends, last = [], 0.0
        for side in learned:
            shade = colour(tint(comparison, side))
            for run in side.runs:
                updates, values = run.history.update_series("update"), run.history.update_series("return_mean")
                axes.plot(updates, values, color=shade, linewidth=1.8)
            known = values[np.isfinite(values)]
            if known.size:
                last = max(last, float(updates[-1]))
                ends.append((float(known[-1]), _short(side.label), shade))
        axes.set_title("return of an episode", loc="left", color=colour("muted"))
        axes.set_xlabel("update")
        axes.margins(x=0)
        end_labels(axes, last, ends)

    return draw(paint, 1100, 300, "Mean return over the updates of each policy")


def _curves(
    comparison: Comparison,
    curves_of: Callable[[Side], Curves],
    what: str,
    width: int,
    height: int,
    spelled: Callable[[float], str],
    fit: Callable[["Axes", list[np.ndarray]], None],
    sides: Sequence[Side] = (),
) -> str:
    """Means of sides over epochs with their bands. fit: sets the limits, given all values that are drawn."""

    def paint(figure: "Figure") -> None:
        axes = epoch_axes(figure.subplots(), _longest(comparison), what)
        ends, values, last = [], [], 0.0
        for side in sides or drawn(comparison):
            units = np.array(list(curves_of(side).values()))
            if not units.size:
                continue
            shade = colour(tint(comparison, side))
            mean, low, high = mean_band(units)
            axes.fill_between(side.epochs, low, high, color=shade, alpha=0.15, linewidth=0)
            axes.plot(side.epochs, mean, color=shade, linewidth=2.4)
            values += [mean, low, high]
            last = max(last, float(side.epochs[-1]))
            ends.append((float(mean[np.isfinite(mean)][-1]), shade, side.label))
        fit(axes, values)
        labels = [(value, f"{_short(label)} {spelled(value)}", shade) for value, shade, label in ends]
        end_labels(axes, last, labels)

    return draw(paint, width, height, f"{what}, over epochs")


def _shared(comparison: Comparison, side: Side, *measures: Measure) -> list[np.ndarray]:
    """Two measures of the units that have both."""
    one, two = (comparison.values(side, measure.name) for measure in measures)
    units = [unit for unit in one if unit in two]
    return [np.array([values[unit] for unit in units]) for values in (one, two)]


def _longest(comparison: Comparison) -> RunHistory:
    histories = [run.history for side in comparison.sides for run in side.runs]
    return max(histories, key=lambda history: history.max_epochs)


def _from_zero(axes: "Axes", values: list[np.ndarray]) -> None:
    top = max(float(np.nanmax(np.concatenate(values))), 1.0)
    axes.set_ylim(-0.03 * top, 1.06 * top)  # a little below zero: a curve that stays there is still seen
    axes.yaxis.set_major_formatter(lambda value, _: compact(value) if value >= 10 else f"{value:g}")


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…"

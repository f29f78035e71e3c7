"""An analysis as a picture: every seed of every run a dot, the mean in its interval, the differences beside it."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.errors import EsperError
from esper.files import write_atomic
from esper.nissa.formatting import compact, signed, with_minus
from esper.nissa.palette import SERIES_COLOURS, colour
from esper.nissa.statistics import Interval
from esper.study.analyze.analysis import SuiteResult
from esper.study.analyze.results import PolicyResult
from esper.study.evaluate.measures import MEASURES
from esper.study.measure import Measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

FORMATS = (".svg", ".png", ".pdf")
_WIDTH, _ROW_HEIGHT, _LINE_HEIGHT, _FRAME_HEIGHT = 10.5, 0.48, 0.19, 1.15  # inches
_TITLE, _LABEL = 32, 26  # letters in a line: over the differences, beside a row
_BELOW = 0.2  # of a row: the dots, so that the interval hides none
_STYLE: dict[Any, Any] = {
    "font.size": 11,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": colour("line"),
    "axes.labelcolor": colour("muted"),
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": colour("line"),
    "grid.linewidth": 0.8,
    "text.color": colour("ink"),
    "figure.facecolor": colour("paper"),
    "axes.facecolor": "none",
    "text.parse_math": False,  # a "$" in a name is a "$"
    "xtick.color": colour("muted"),
    "ytick.color": colour("muted"),
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "svg.fonttype": "none",
    "svg.hashsalt": "esper",
}
Tints = Mapping[str, str]  # sha256 of a policy's first version -> its colour, the same in every panel


def draw_results(results: Sequence[SuiteResult], metrics: Sequence[str], path: Path) -> None:
    """Write the picture: a row of panels for each suite and metric (none given: the main one).

    Raises EsperError where there is nothing to draw, or the file cannot be written.
    """
    if path.suffix not in FORMATS:
        raise EsperError(f"--plot {path}: expected a name that ends in {', '.join(FORMATS)}")
    wanted = [(one, name) for one in results for name in metrics or [one.main_metric]]
    panels = [(result, MEASURES[name]) for result, name in wanted if name in result.metrics]
    if not panels:
        raise EsperError(f"--plot {path}: nothing was evaluated that could be drawn")
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    heights = [_FRAME_HEIGHT + _row_height(result) * len(result.policies) for result, _ in panels]
    with matplotlib.rc_context(_STYLE):
        layout = ConstrainedLayoutEngine(w_pad=0.1)
        figure = Figure(figsize=(_WIDTH, sum(heights)), dpi=160, layout=layout)
        parts = figure.subfigures(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
        for part, (result, measure) in zip(parts, panels, strict=True):
            _panel(part, result, measure, _tints(results))
        figure.savefig(
            picture := io.BytesIO(),
            format=path.suffix.removeprefix("."),
            metadata={"Date": None} if path.suffix == ".svg" else None,
        )
    write_atomic(path, picture.getvalue())


def _tints(results: Sequence[SuiteResult]) -> Tints:
    versions = dict.fromkeys(row.runs[0].sha256 for result in results for row in result.policies)
    return {version: colour(f"series{place % SERIES_COLOURS}") for place, version in enumerate(versions)}


def _panel(figure: "SubFigure", result: SuiteResult, measure: Measure, tints: Tints) -> None:
    """Values on the left, differences from the first version on the right, where there are any."""
    reference = result.policies[0]
    gaps = [row.difference(reference, measure.name) for row in result.policies[1:]]
    has_gaps = any(gap is not None and gap.n for gap in gaps)
    columns, widths = (2, [3, 2]) if has_gaps else (1, [1])
    panels = figure.subplots(1, columns, sharey=True, width_ratios=widths, squeeze=False)[0]
    figure.suptitle(f"suite {result.suite}", x=0.012, ha="left", fontweight="bold", fontsize=12)
    _values(panels[0], result.policies, measure, tints)
    if has_gaps:
        _differences(panels[1], result.policies, gaps, measure, tints)


def _values(axes: "Axes", rows: Sequence[PolicyResult], measure: Measure, tints: Tints) -> None:
    for place, row in enumerate(rows):
        values = row.table(measure.name).ravel() * measure.scale
        tint = tints[row.runs[0].sha256]
        axes.scatter(values, [place + _BELOW] * len(values), s=24, color=tint, alpha=0.4, linewidth=0)
        interval = row.interval(measure.name)
        if interval.mean is not None:
            mean = interval.mean * measure.scale
            text = compact(mean) if abs(mean) >= 1000 else f"{mean:.{measure.decimals}f}"
            _whisker(axes, interval, place, measure, tint, text)
    axes.set_yticks(range(len(rows)), [textwrap.fill(row.title, _LABEL) for row in rows], color=colour("ink"))
    axes.set_ylim(len(rows) - 0.5, -0.6)
    axes.set_title(measure.heading, loc="left", color=colour("muted"))
    _bare(axes)


def _differences(
    axes: "Axes", rows: Sequence[PolicyResult], gaps: Sequence[Interval | None], measure: Measure, tints: Tints
) -> None:
    axes.axvline(0, color=tints[rows[0].runs[0].sha256], linewidth=1.4)
    for place, (row, gap) in enumerate(zip(rows[1:], gaps, strict=True), start=1):
        if gap is not None and gap.mean is not None:
            mean = gap.mean * measure.scale
            text = compact(mean) if abs(mean) >= 1000 else signed(mean, measure.decimals)
            _whisker(axes, gap, place, measure, tints[row.runs[0].sha256], text)
    unit = "points" if measure.is_score else measure.unit
    title = ", ".join(filter(None, (f"less {rows[0].title}", unit)))
    # Wrapped: nothing keeps a title from leaving the picture.
    axes.set_title(textwrap.fill(title, _TITLE), loc="left", color=colour("muted"))
    axes.tick_params(labelleft=False)
    _bare(axes)


def _row_height(result: SuiteResult) -> float:
    """Inches that each version takes, so that the lines of its title stand clear of the next one's."""
    lines = max(textwrap.fill(row.title, _LABEL).count("\n") + 1 for row in result.policies)
    return max(_ROW_HEIGHT, _LINE_HEIGHT * (lines + 0.4))


def _whisker(axes: "Axes", interval: Interval, place: int, measure: Measure, tint: str, text: str) -> None:
    """Interval and mean, which is written above."""
    mean = (interval.mean or 0.0) * measure.scale
    if interval.low is not None and interval.high is not None:
        axes.hlines(place, interval.low * measure.scale, interval.high * measure.scale, color=tint, linewidth=2.4)
    axes.scatter([mean], [place], s=52, color=tint, edgecolor=colour("paper"), linewidth=1.2, zorder=3)
    axes.annotate(
        with_minus(text),
        (mean, place),
        xytext=(0, 7),
        textcoords="offset points",
        ha="center",
        color=tint,
        fontweight="bold",
    )


def _bare(axes: "Axes") -> None:
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=6)
    axes.margins(x=0.06)

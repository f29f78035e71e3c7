"""How the report's pictures are drawn: inline SVG that follows the page's theme. matplotlib comes with the first."""

import io
import re
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from esper.nissa.history import RunHistory
from esper.nissa.palette import THEME, colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# One unit is one CSS pixel at full width: a figure of 72 dots an inch is drawn at `width / 72` inches.
_DOTS_PER_INCH = 72
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


def draw(paint: Callable[["Figure"], None], width: int, height: int, label: str) -> str:
    """One figure as an `<svg>` element.

    Args:
        paint: draws on the empty figure.
        width, height: CSS pixels at full size; the picture shrinks with the page.
        label: what it shows, for those who cannot see it.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width / _DOTS_PER_INCH, height / _DOTS_PER_INCH), layout="constrained")
        figure.patch.set_visible(False)
        paint(figure)
        for axes in figure.axes:
            axes.patch.set_visible(False)
        out = io.StringIO()
        FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None})
    return _inline(out.getvalue(), width, height, label)


def _inline(svg: str, width: int, height: int, label: str) -> str:
    body = svg[svg.index("<svg") :]
    body = body[body.index(">") + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    body = re.sub(r"<style.*?</style>", "", body, flags=re.S)  # it would style the whole page
    body = re.sub(r"<!--.*?-->", "", body, flags=re.S)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    # A hundredth of a pixel is enough, and half the bytes.
    body = re.sub(r' d="[^"]*"', lambda d: re.sub(r"(\.\d\d)\d+", r"\1", d.group()), body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    body = body.replace("'DejaVu Sans'", "var(--font)")
    for name, (light, _) in THEME.items():
        body = body.replace(light, f"var(--{name})")
    return (
        f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {width} {height}" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink">{body}'
    )


def epoch_axes(axes: "Axes", history: RunHistory, label: str, axis_name: str = "epoch") -> "Axes":
    """Axes over the whole planned run, so that an unfinished one shows how far it came."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(0, max(history.max_epochs, 1))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=2))
    axes.set_xlabel(axis_name)
    axes.set_title(label, loc="left", color=colour("muted"))
    axes.grid(axis="x", visible=False)
    return axes


def limit(axes: "Axes", values: np.ndarray, lowest: float = -np.inf, highest: float = np.inf) -> None:
    """Fit the members. A band may run out of the picture: that of two members is wider than anything they do."""
    known = values[np.isfinite(values)]
    if known.size:
        low, high = float(known.min()), float(known.max())
        room = 0.12 * max(high - low, 1.0)
        axes.set_ylim(max(low - room, lowest), min(high + room, highest))


def end_labels(axes: "Axes", x: float, ends: list[tuple[float, str, str]]) -> None:
    """Name curves at their last point, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    gap = (high - low) * 0.065
    heights: list[float] = []
    for value, text, tint in sorted((end for end in ends if np.isfinite(end[0])), key=lambda end: end[0]):
        height = max(value, heights[-1] + gap) if heights else value
        heights.append(height)
        axes.annotate(
            text, (x, height), xytext=(6, 0), textcoords="offset points", color=tint, va="center",
            fontweight="bold", annotation_clip=False,
        )  # fmt: skip


def stack(axes: "Axes", layers: list[tuple[str, np.ndarray, str]]) -> None:
    """Layers on top of each other, one step an epoch from epoch 1 on: (label, heights [T], colour)."""
    bottom = np.zeros(0)
    for label, heights, tint in layers:
        bottom = bottom if bottom.size else np.zeros(len(heights) + 1)
        top = bottom + np.append(heights, heights[-1:])
        axes.fill_between(np.arange(len(top)), bottom, top, step="post", color=tint, linewidth=0, label=label)
        bottom = top


def legend_above(axes: "Axes", **options: Any) -> None:
    """A legend in one row over the plot's right end, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(
            handles, labels, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(handles), handlelength=0.9,
            handletextpad=0.4, columnspacing=1.0, borderaxespad=0.1, **options,
        )  # fmt: skip

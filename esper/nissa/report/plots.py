"""How the report's pictures are drawn: plots as inline SVG, in the page's own colours and font."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from itertools import accumulate
from typing import Any

import numpy as np

from esper.nissa.formatting import compact, with_minus
from esper.nissa.report.history import RunHistory

LEAST_POINTS = 2.0  # of score, that a plot of differences spans
FOR_NAMES = 90  # pixels right of a plot whose curves are named at their ends
_TOP, _RIGHT, _BOTTOM, _LEFT = 26, 20, 38, 46  # round every plot alike, so that they line up on the page
_NARROW, _WIDE = " .,:;'|!()[]fijlrtI", "%@&<>=+~#mwDGHMNOQW…"
_LINE = 14  # pixels from one line of text to the next
_FARTHEST = 1e300  # from 0, and its inverse the nearest, that room around a value can be reckoned of


def tint(name: str) -> str:
    """A colour of the theme, which the page defines for light and for dark."""
    return f"var(--{name})"


def text_width(text: str) -> float:
    """Pixels, on the wide side: the font is the reader's."""
    return sum(4.6 if letter in _NARROW else 10.8 if letter in _WIDE else 7.2 for letter in text)


def span(
    values: np.ndarray, lowest: float = -math.inf, highest: float = math.inf, least: float = 0.0
) -> tuple[float, float]:
    """From just below the least value to just above the greatest, as far as a value can be there.

    least: how much is shown at least, so that what does not differ looks so.
    """
    known = np.clip(values[np.isfinite(values)], -_FARTHEST, _FARTHEST)
    known = np.where(np.abs(known) < 1 / _FARTHEST, 0.0, known)
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    room = 0.05 * (abs(high) or 1.0) if math.isclose(low, high) else 0.08 * (high - low)
    room = max(room, (least - (high - low)) / 2)
    return max(low - room, lowest), min(high + room, highest)


def ticks(low: float, high: float, most: int, whole: bool = False) -> np.ndarray:
    """Two to `most` + 1 numbers between the two, one, two or five times a power of ten apart."""
    least = (high - low) / max(most, 1)
    power = 10.0 ** math.floor(math.log10(least))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= least)
    step = max(step, 1.0) if whole else step
    found = step * np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return found if len(found) > 1 else ticks(low, high, most + 1, whole)


def tick_texts(values: np.ndarray) -> list[str]:
    """As short as tells them apart: "0.05", "1,500", "120k", "123,456"."""
    step, top = float(values[1] - values[0]), float(np.abs(values).max())
    digits = math.ceil(math.log10(top / step) + 1e-9) + 1
    if step < 1e-4:
        return [f"{value:.{digits}g}" for value in values]
    if step > 0.9 and digits <= 3:
        return [compact(value) for value in values]
    return [f"{value:,.{max(math.ceil(-math.log10(step) - 1e-9), 0)}f}" for value in values]


class Plot:
    """One plot. What is added lies on top of what was there; what is beyond the axes is drawn at their ends.

    Args:
        heading: what the height means, written above.
        x, y: the least and the greatest value shown.
        size: width and height with all texts, in CSS pixels where the page has its full width.
        across: what the way across means.
        right: pixels beside the plot.
        rows: names of the heights 0, 1, ... in place of numbers.
        counts: heights are whole numbers.
    """

    def __init__(
        self,
        heading: str,
        x: tuple[float, float],
        y: tuple[float, float],
        size: tuple[int, int],
        across: str = "epoch",
        right: float = _RIGHT,
        rows: Sequence[str] = (),
        counts: bool = False,
    ) -> None:
        x = (x[0], x[1] if x[1] > x[0] else x[0] + 1)  # one place alone has no width
        self.size, self._x, self._y, self._parts = size, x, y, list[str]()
        widest = max(map(text_width, tick_texts(np.array(x))))
        self._top, self._right, self._bottom = _TOP, size[0] - max(right, widest / 2 + 4), size[1] - _BOTTOM
        y_ticks = np.arange(len(rows)) if rows else ticks(*y, (self._bottom - self._top) // (2 * _LINE), counts)
        names = rows or tick_texts(y_ticks)
        self._left = max(_LEFT, 8 + max(map(text_width, names)))
        x_ticks = ticks(*x, min(int((self._right - self._left) / (widest + 30)), 9), whole=not rows)
        grid = [f"M{x_px:.1f} {self._top}V{self._bottom}" for x_px in self._across(x_ticks) if rows]
        grid += [f"M{self._left:.1f} {y_px:.1f}H{self._right:.1f}" for y_px in self._down(y_ticks) if not rows]
        grid.append(f"M{self._left:.1f} {self._top}V{self._bottom}H{self._right:.1f}")
        self._parts.append(f'<path d="{"".join(grid)}" fill="none" stroke="{tint("line")}"/>')
        every = math.ceil(0.8 * _LINE * len(names) / (self._bottom - self._top))  # of many rows, some are named
        for name, y_px in list(zip(names, self._down(y_ticks), strict=True))[::-every]:
            self._text(name, self._left - 6, y_px + 4, tint("muted"), anchor="end")
        for name, x_px in zip(tick_texts(x_ticks), self._across(x_ticks), strict=True):
            self._text(name, x_px, self._bottom + 16, tint("muted"), anchor="middle")
        self._text(across, (self._left + self._right) / 2, self._bottom + 31, tint("muted"), anchor="middle")
        self._text(heading, self._left, 13, tint("muted"))

    def lines(
        self, x: np.ndarray, curves: np.ndarray, colour: str, width: float, opacity: float = 1.0, steps: bool = False
    ) -> None:
        """Curves ([T], or [N, T]) over x ([T]), broken where a value is missing; in steps: level up to the next x."""
        if steps:
            x, curves = np.repeat(x, 2)[1:], np.repeat(curves, 2, axis=-1)[..., :-1]
        look = f'fill="none" stroke="{colour}" stroke-width="{width}" stroke-opacity="{opacity}" stroke-linecap="round"'
        for curve in np.atleast_2d(curves):
            points = self._points(x, curve)
            # "h0", because a point between two gaps would not show.
            path = "".join(f"M{'L'.join(points[part])}h0" for part in _stretches(np.isfinite(curve)))
            self._parts.append(f'<path d="{path}" {look} stroke-linejoin="round"/>')

    def level(self, height: float, colour: str = tint("twin")) -> None:
        """A line all the way across."""
        self.lines(np.array(self._x), np.full(2, height), colour, 1.2)

    def band(self, x: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str, opacity: float = 0.18) -> None:
        """What lies between two curves. [T] each"""
        for part in _stretches(np.isfinite(low) & np.isfinite(high)):
            outline = self._points(x[part], low[part]) + self._points(x[part], high[part])[::-1]
            self._parts.append(f'<path d="M{"L".join(outline)}Z" fill="{colour}" fill-opacity="{opacity}"/>')

    def stack(self, layers: Sequence[tuple[np.ndarray, str]]) -> None:
        """Layers on top of each other, one step an epoch from epoch 1 on: (heights [T], colour)."""
        tops = np.cumsum([np.repeat(heights, 2) for heights, _ in layers], axis=0)  # [L, 2T]
        bottoms = np.vstack([0 * tops[:1], tops[:-1]])
        x = np.repeat(np.arange(tops.shape[1] // 2 + 1), 2)[1:-1]
        for low, high, (_, colour) in zip(bottoms, tops, layers, strict=True):
            self.band(x, low, high, colour, opacity=1)

    def dots(self, x: np.ndarray, y: np.ndarray, colour: str, radius: float, opacity: float = 1.0) -> None:
        """A dot for each y that is known. [N] each"""
        known = np.isfinite(y)
        look = f'r="{radius}" fill="{colour}" fill-opacity="{opacity}"'
        for x_px, y_px in zip(self._across(x[known]), self._down(y[known]), strict=True):
            self._parts.append(f'<circle cx="{x_px:.1f}" cy="{y_px:.1f}" {look}/>')

    def names(self, x: float, ends: Iterable[tuple[float, str, str]]) -> None:
        """Name curves where they end at x, moved apart where they would overlap: (value, text, colour)."""
        known = sorted((end for end in ends if math.isfinite(end[0])), reverse=True)
        y_px = -math.inf
        for below, (value, text, colour) in zip(reversed(range(len(known))), known, strict=True):
            y_px = min(max(self._down(value), y_px + _LINE), self._bottom - _LINE * below)
            self._text(text, self._across(x) + 6, y_px + 4, colour, weight=700)

    def legend(self, entries: Sequence[tuple[str, str]], beside: bool = False) -> None:
        """What each (name, colour) is: in a row above the plot, at its right, or `beside` it, one below the other."""
        widths = [28 + text_width(name) for name, _ in entries]
        x, y = self._right - sum(widths), 13.0
        if beside:
            x, y = self._right + 16, (self._top + self._bottom) / 2 - 10 * len(entries) + 14
        for (name, colour), width in zip(entries, widths, strict=True):
            self._parts.append(f'<rect x="{x:.1f}" y="{y - 9:.1f}" width="10" height="10" rx="2.5" fill="{colour}"/>')
            self._text(name, x + 15, y, tint("ink"))
            x, y = (x, y + 20) if beside else (x + width, y)

    def svg(self) -> str:
        """The plot as SVG elements, its upper left corner at (0, 0)."""
        return "\n".join(self._parts)

    def _across(self, values: Any) -> Any:
        low, high = self._x
        return self._left + (np.clip(values, low, high) - low) / (high - low) * (self._right - self._left)

    def _down(self, values: Any) -> Any:
        low, high = self._y
        return self._bottom - (np.clip(values, low, high) - low) / (high - low) * (self._bottom - self._top)

    def _points(self, x: np.ndarray, y: np.ndarray) -> list[str]:
        places = zip(self._across(x).tolist(), self._down(y).tolist(), strict=True)
        return [f"{x_px:.1f} {y_px:.1f}" for x_px, y_px in places]

    def _text(self, text: str, x: float, y: float, colour: str, anchor: str = "start", weight: int = 400) -> None:
        """Text, cut short with "…" where it would leave the picture."""
        text = with_minus(text)
        room = {"start": self.size[0] - x, "middle": 2 * min(x, self.size[0] - x), "end": x}[anchor]
        if text_width(text) > room:
            kept = sum(width < room - 12 for width in accumulate(map(text_width, text)))
            text = f"{text[:kept]}…"
        look = f'fill="{colour}" text-anchor="{anchor}" font-weight="{weight}"'
        self._parts.append(f'<text x="{x:.1f}" y="{y:.1f}" {look}>{escape(text)}</text>')


def over_epochs(
    history: RunHistory, heading: str, y: tuple[float, float], size: tuple[int, int], **options: Any
) -> Plot:
    """A plot over the whole planned run, so that an unfinished one shows how far it came."""
    return Plot(heading, (0, max(history.max_epochs, 1)), y, size, **options)


def picture(label: str, *plots: Plot, columns: int = 1) -> str:
    """Plots of one size, row by row, as one `<svg>` that shrinks with the page. label: for those who cannot see it."""
    width, height = plots[0].size
    parts = [
        f'<g transform="translate({width * (place % columns)} {height * (place // columns)})">\n{plot.svg()}\n</g>\n'
        for place, plot in enumerate(plots)
    ]
    box = f"0 0 {width * columns} {height * -(-len(plots) // columns)}"
    return f'<svg role="img" aria-label="{escape(label)}" viewBox="{box}" font-size="11">\n{"".join(parts)}</svg>'


def _stretches(known: np.ndarray) -> list[slice]:
    """The parts of a curve that have no gap. known: [T]"""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(int)))
    return [slice(first, end) for first, end in edges.reshape(-1, 2)]

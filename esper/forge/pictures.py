"""The forge's pictures: what came of each phase, and how each learned."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from esper.forge.continuity import Measured, aspects_of
from esper.nissa.palette import SERIES_COLOURS
from esper.nissa.report.plots import Plot, picture, span, tint

SMOOTHED_OVER = 5  # points of a noisy curve


def continuity_picture(rows: Sequence[tuple[str, Measured]]) -> str:
    """Each aspect of the continuity table over the phases, first at the top; "" where there is one phase alone."""
    if len(rows) < 2:
        return ""
    names = [name for name, _ in rows][::-1]
    heights = np.arange(len(names), dtype=float)
    plots = []
    for number, aspect in enumerate(aspects_of(row for _, row in rows)):
        values = np.array([row.get(aspect.name) for _, row in rows][::-1], dtype=float)
        values = values / 1e3 if aspect.unit == "bytes" else values
        unit = "kB" if aspect.unit == "bytes" else aspect.unit
        low, high = span(values)
        plot = Plot(
            f"{aspect.title}, {unit}",
            (min(low, 0.0) if aspect.unit == "bytes" else low, high),
            (-0.5, len(names) - 0.5),
            (275, 70 + 26 * len(names)),
            across="higher is better" if aspect.is_better_high else "lower is better",
            rows=names,
        )
        is_known = np.isfinite(values)
        plot.dots(values[is_known], heights[is_known], tint(f"series{number % SERIES_COLOURS}"), 4.5)
        plots.append(plot)
    return picture("What each phase's model came to", *plots, columns=4)


def curves_picture(phase: str, records: Sequence[Mapping[str, Any]]) -> str:
    """The losses that a phase logged, over its steps; "" where it logged none."""
    prefix = f"{phase}/"
    found: dict[str, tuple[list[float], list[float]]] = {}
    for record in records:
        for name, value in record.items():
            if name.startswith(prefix) and name.endswith("loss") and isinstance(value, int | float):
                steps, values = found.setdefault(name.removeprefix(prefix).removesuffix("_loss"), ([], []))
                if steps and (record.get("step") or 0) <= steps[-1]:  # the phase was run anew
                    steps.clear()
                    values.clear()
                steps.append(record.get("step") or 0)
                values.append(float(value))
    curves = {name: (np.array(x), np.array(y)) for name, (x, y) in found.items() if len(x) > 1}
    if not curves:
        return ""
    last = max(float(x.max()) for x, _ in curves.values())
    lows, highs = zip(*(np.percentile(y, (0, 95)) for _, y in curves.values()), strict=True)
    plot = Plot("training loss", (0, last), span(np.array([min(lows), max(highs)])), (1100, 260), "step")
    for number, (x, y) in enumerate(curves.values()):
        plot.lines(x, _smoothed(y), tint(f"series{number % SERIES_COLOURS}"), 1.6)
    plot.legend([(name, tint(f"series{number % SERIES_COLOURS}")) for number, name in enumerate(curves)])
    return picture(f"Training losses of {phase}", plot)


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Mean over each point and the few before it. [T]"""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    first = np.maximum(np.arange(1, len(values) + 1) - SMOOTHED_OVER, 0)
    return (sums[1:] - sums[first]) / (np.arange(1, len(values) + 1) - first)

"""Pictures of what seeds did: stages over the epochs, contributions, alpha."""

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from esper.leyline import SeedStage
from esper.nissa.drawing import draw, epoch_axes, stack
from esper.nissa.history import RunHistory
from esper.nissa.lives import Segment
from esper.nissa.palette import SERIES_COLOURS, STAGE_LOOKS, colour
from esper.nissa.statistics import mean_band

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Fossils at the bottom: they stay, so that what is lasting reads as a rising floor.
_BOTTOM_UP = (
    SeedStage.FOSSILIZED,
    SeedStage.PROBATIONARY,
    SeedStage.BLENDING,
    SeedStage.TRAINING,
    SeedStage.GERMINATED,
    SeedStage.CULLED,
    SeedStage.EMBARGOED,
    SeedStage.RESETTING,
)

Lives = dict[tuple[int, str], list[Segment]]
_COLUMNS = 3
CROWD = 12  # from so many members on, single lines step back behind their means


def occupancy(history: RunHistory, lives: Lives, width: int = 530) -> str:
    """How many slots were in each stage, epoch by epoch, over all grown members."""

    def paint(figure: "Figure") -> None:
        axes = epoch_axes(figure.subplots(), history, "slots")
        counts: Counter[tuple[SeedStage, int]] = Counter()
        for parts in lives.values():
            for part in parts:
                counts.update((part.stage, epoch) for epoch in range(part.start + 1, part.end + 1))
        layers = []
        for stage in _BOTTOM_UP:
            heights = np.array([counts[stage, epoch] for epoch in range(1, int(history.epochs[-1]) + 1)])
            if heights.any():
                layers.append((STAGE_LOOKS[stage].label, heights, STAGE_LOOKS[stage].colour))
        stack(axes, layers)
        axes.set_ylim(0, max(len(lives), 1))
        axes.locator_params(axis="y", integer=True)

    return draw(paint, width, 300, "Number of slots in each stage over epochs")


def contribution(history: RunHistory, lives: Lives) -> str:
    """What each seed is worth: validation accuracy with it minus without it, by slot, coloured by blueprint."""

    def paint(axes: "Axes", slot: str) -> None:
        axes.axhline(0, color=colour("twin"), linewidth=1)
        _seed_lines(axes, history, lives, slot, "contribution")

    return _by_slot(history, lives, paint, "contribution, points", 250)


def alpha(history: RunHistory, lives: Lives) -> str:
    """Each seed's share in its slot's output, coloured by blueprint."""

    def paint(axes: "Axes", slot: str) -> None:
        _seed_lines(axes, history, lives, slot, "alpha")
        axes.set_ylim(-0.04, 1.06)
        axes.set_yticks([0, 0.5, 1])

    return _by_slot(history, lives, paint, "alpha", 180)


def blueprint_colours(lives: Lives) -> dict[str, str]:
    """A theme colour's name for each blueprint that was planted."""
    names = sorted({part.blueprint for parts in lives.values() for part in parts if part.blueprint})
    return {name: f"series{index % SERIES_COLOURS}" for index, name in enumerate(names)}


def _by_slot(history: RunHistory, lives: Lives, paint: Callable[["Axes", str], None], label: str, height: int) -> str:
    rows = -(-len(history.slots) // _COLUMNS)

    def paint_all(figure: "Figure") -> None:
        figure.set_layout_engine("constrained", wspace=0.04)
        grid = figure.subplots(rows, min(len(history.slots), _COLUMNS), sharey=True, squeeze=False).ravel()
        for axes, slot in zip(grid, history.slots, strict=False):
            epoch_axes(axes, history, f"{slot}: {label}")
            paint(axes, slot)
        for axes in grid[len(history.slots) :]:
            axes.set_visible(False)

    return draw(paint_all, 1100, height * rows, f"{label} of each seed over epochs, by slot")


def _seed_lines(axes: "Axes", history: RunHistory, lives: Lives, slot: str, key: str) -> None:
    tints = blueprint_colours(lives)
    is_crowd = len(history.grown) >= CROWD
    curves: dict[str, list[np.ndarray]] = defaultdict(list)
    for member in history.grown:
        values = np.array(history.slot_series(member, slot, key), dtype=float)  # None becomes NaN: a gap
        seeds = history.slot_series(member, slot, "seed")
        blueprints = history.slot_series(member, slot, "blueprint")
        for seed in dict.fromkeys(filter(None, seeds)):
            own = np.array([name == seed for name in seeds])
            if np.isfinite(values[own]).any():
                curves[blueprints[int(own.argmax())] or ""].append(np.where(own, values, np.nan))
    look: dict[str, Any] = {"linewidth": 0.7, "alpha": 0.3} if is_crowd else {"linewidth": 1.6, "alpha": 0.85}
    for blueprint, seeds_curves in curves.items():
        tint = colour(tints.get(blueprint, "muted"))
        axes.plot(history.epochs, np.array(seeds_curves).T, color=tint, **look)
        if is_crowd and key == "contribution":
            axes.plot(history.epochs, mean_band(np.array(seeds_curves))[0], color=tint, linewidth=2.2)

"""Pictures of what seeds did: stages over the epochs, contributions, alpha."""

from collections import Counter, defaultdict

import numpy as np

from esper.leyline import SeedStage
from esper.nissa.palette import SERIES_COLOURS, STAGE_LOOKS
from esper.nissa.report.history import RunHistory
from esper.nissa.report.plots import LEAST_POINTS, Plot, over_epochs, picture, span, tint
from esper.nissa.report.timeline import Segment
from esper.nissa.statistics import FEWEST, mean_band

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

Timelines = dict[tuple[int, str], list[Segment]]
CROWD = 12  # from so many members on, single lines step back behind their means


def occupancy(history: RunHistory, timelines: Timelines, width: int = 530) -> str:
    """How many slots were in each stage, epoch by epoch, over all grown members."""
    counts: Counter[tuple[SeedStage, int]] = Counter()
    for parts in timelines.values():
        for part in parts:
            counts.update((part.stage, epoch) for epoch in range(part.start + 1, part.end + 1))
    epochs = range(1, int(history.epochs[-1]) + 1)
    plot = over_epochs(history, "slots", (0, max(len(timelines), 1)), (width, 300), counts=True)
    seen = {stage for stage, _ in counts}
    stages = [stage for stage in _BOTTOM_UP if stage in seen]
    plot.stack([(np.array([counts[stage, epoch] for epoch in epochs]), STAGE_LOOKS[stage].colour) for stage in stages])
    return picture("Number of slots in each stage over epochs", plot)


def contribution(history: RunHistory, timelines: Timelines) -> str:
    """What each seed is worth: validation score with it minus without it, by slot, coloured by blueprint."""
    every = np.array([history.slot_series(*place, "contribution") for place in timelines], dtype=float)  # [M * S, T]
    return _by_slot(
        history, timelines, "contribution", ", points", span(np.append(every, 0.0), least=LEAST_POINTS), 250
    )


def alpha(history: RunHistory, timelines: Timelines) -> str:
    """Each seed's share in its slot's output, coloured by blueprint."""
    return _by_slot(history, timelines, "alpha", "", (0.0, 1.05), 180)


def blueprint_colours(timelines: Timelines) -> dict[str, str]:
    """A theme colour's name for each blueprint that was planted."""
    names = sorted({part.blueprint for parts in timelines.values() for part in parts if part.blueprint})
    return {name: f"series{index % SERIES_COLOURS}" for index, name in enumerate(names)}


def _by_slot(
    history: RunHistory, timelines: Timelines, key: str, unit: str, y: tuple[float, float], height: int
) -> str:
    columns = min(len(history.slots), 3)
    plots = []
    for slot in history.slots:
        plot = over_epochs(history, f"{slot}: {key}{unit}", y, (1100 // columns, height))
        if y[0] < 0:
            plot.level(0.0)
        _seed_lines(plot, history, timelines, slot, key)
        plots.append(plot)
    return picture(f"{key}{unit} of each seed over epochs, by slot", *plots, columns=columns)


def _seed_lines(plot: Plot, history: RunHistory, timelines: Timelines, slot: str, key: str) -> None:
    tints = blueprint_colours(timelines)
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
    width, opacity = (0.7, 0.3) if is_crowd else (1.6, 0.85)
    for blueprint, of_seeds in curves.items():
        colour = tint(tints.get(blueprint, "muted"))
        plot.lines(history.epochs, np.array(of_seeds), colour, width, opacity)
        if is_crowd and key == "contribution":
            mean = mean_band(np.array(of_seeds))[0]
            few = np.isfinite(of_seeds).sum(axis=0) < FEWEST  # one seed that came back is no mean of its blueprint
            plot.lines(history.epochs, np.where(few, np.nan, mean), colour, 2.2)

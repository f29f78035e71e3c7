"""The report's pictures of scores, size and speed."""

from collections.abc import Sequence

import numpy as np

from esper.nissa.formatting import compact, signed
from esper.nissa.report.history import RunHistory
from esper.nissa.report.plots import FOR_NAMES, LEAST_POINTS, Plot, over_epochs, picture, span, tint
from esper.nissa.statistics import mean_band


def score(history: RunHistory) -> str:
    """Validation score of grown members and twins: each member thin, means with their 95% bands."""
    kind = history.score
    groups = _groups(history, f"val_{kind.name}")
    y = span(np.concatenate([values for _, values in groups]), *kind.within)
    plot = over_epochs(history, f"validation {kind.title}, %", y, (700, 360), right=FOR_NAMES)
    means = [(name, _members(plot, history, values, tint(name))[-1]) for name, values in groups]
    plot.names(history.epochs[-1], [(mean, f"{name} {mean:.1f}", tint(name)) for name, mean in means])
    return picture(f"Validation {kind.title} of grown members and their static twins over epochs", plot)


def difference(history: RunHistory, width: int = 530) -> str:
    """Validation score of each grown member minus its twin's, with the mean's 95% band."""
    pairs = [(member, history.twins[member]) for member in history.grown if member in history.twins]
    grown, twins = (history.series(members, f"val_{history.score.name}") for members in zip(*pairs, strict=True))
    y = span(np.append(grown - twins, 0.0), least=LEAST_POINTS)
    plot = over_epochs(history, "grown minus twin, points", y, (width, 340), right=50)
    plot.level(0.0)
    mean = _members(plot, history, grown - twins, tint("grown"))[-1]
    plot.names(history.epochs[-1], [(mean, signed(mean), tint("grown"))])
    return picture(f"Paired difference of validation {history.score.title} over epochs", plot)


def pairs(
    labels: Sequence[str],
    grown: Sequence[float],
    twin: Sequence[float] | None,
    what: str,
    within: tuple[float, float],
) -> str:
    """One row a member, best at the top: its twin's score, its own, and the way between."""
    order = np.argsort(grown)
    rows, mine, other = np.arange(len(order)), np.array(grown)[order], np.array(twin or grown)[order]
    x, y = span(np.append(mine, other), *within), (-0.7, len(rows) - 0.3)
    plot = Plot("member", x, y, (360, 360), across=what, rows=[labels[i] for i in order])
    thickness, radius = (2.2, 3.7) if len(rows) <= 16 else (1.4, 2.5)
    if twin is not None:
        for row, ends in zip(rows, np.stack([other, mine], axis=1), strict=True):
            way = tint("good" if ends[1] >= ends[0] else "bad")
            plot.lines(ends, np.full(2, row), way, thickness, opacity=0.55)
        plot.dots(other, rows, tint("twin"), radius)
        plot.legend([("static twin", tint("twin")), ("grown", tint("grown"))])
    plot.dots(mine, rows, tint("grown"), radius)
    return picture(f"{what} of each grown member and its twin", plot)


def size(history: RunHistory, key: str, label: str) -> str:
    """Parameters or FLOPs of grown members and twins over epochs."""
    groups = _groups(history, key)
    _, top = span(np.concatenate([values for _, values in groups]))
    plot = over_epochs(history, label, (0.0, top), (530, 270), right=FOR_NAMES)
    ends = []
    for name, values in groups:
        mean = mean_band(values)[0]
        if name == "grown":
            plot.lines(history.epochs, values, tint(name), 0.8, opacity=0.3, steps=True)
        plot.lines(history.epochs, mean, tint(name), 2.2, steps=True)
        ends.append((mean[-1], f"{name} {compact(mean[-1])}", tint(name)))
    plot.names(history.epochs[-1], ends)
    return picture(f"{label} over epochs", plot)


def throughput(history: RunHistory) -> str:
    """Training samples a second, all members together."""
    speeds = history.epoch_series("samples_per_s")
    plot = over_epochs(history, "training samples a second", (0.0, span(speeds)[1]), (530, 240))
    plot.lines(history.epochs, speeds, tint("series0"), 1.8)
    plot.dots(history.epochs, speeds, tint("series0"), 2)
    return picture("Training samples a second over epochs", plot)


def time_shares(history: RunHistory) -> str:
    """Where each epoch's wall time went."""
    parts = {"training": "train_s", "validation": "validation_s", "counterfactuals": "counterfactual_s"}
    spent = {name: np.nan_to_num(history.epoch_series(key)[1:]) for name, key in parts.items()}
    wall = np.nan_to_num(history.epoch_series("wall_s")[1:])
    spent["other"] = (wall - sum(spent.values())).clip(min=0)
    tints = [tint(name) for name in ("series0", "series3", "series2", "twin")]
    plot = over_epochs(history, "seconds an epoch", (0.0, span(sum(spent.values()))[1]), (530, 240))
    plot.stack(list(zip(spent.values(), tints, strict=True)))
    plot.legend(list(zip(spent, tints, strict=True)))
    return picture("Seconds an epoch by what they were spent on", plot)


def _members(plot: Plot, history: RunHistory, values: np.ndarray, colour: str) -> np.ndarray:
    """Every member thin, their mean thick in its 95% band. values: [M, T]; returns the mean, [T]."""
    if len(values) > 1:
        plot.lines(history.epochs, values, colour, 0.8, opacity=0.35 if len(values) < 12 else 0.2)
    mean, low, high = mean_band(values)
    plot.band(history.epochs, low, high, colour)
    plot.lines(history.epochs, mean, colour, 2.4)
    return mean


def _groups(history: RunHistory, key: str) -> list[tuple[str, np.ndarray]]:
    """One metric of twins, if there are any, and of grown members, who are drawn on top of them. [M, T] each"""
    members = {"twin": list(history.twins.values()), "grown": history.grown}
    return [(name, history.series(numbers, key)) for name, numbers in members.items() if numbers]

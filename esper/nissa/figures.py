"""The report's pictures of accuracy, size and speed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from esper.nissa.drawing import draw, end_labels, epoch_axes, legend_above, limit, stack
from esper.nissa.history import RunHistory
from esper.nissa.palette import colour
from esper.nissa.statistics import mean_band
from esper.nissa.text import compact, signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def accuracy(history: RunHistory) -> str:
    """Validation accuracy of grown members and twins: each member thin, means with their 95% bands."""

    def paint(figure: "Figure") -> None:
        axes = epoch_axes(figure.subplots(), history, "validation accuracy, %")
        ends = []
        for name, label, members in _groups(history):
            mean = _members(axes, history, history.series(members, "val_accuracy"), colour(name))
            ends.append((mean[-1], f"{label} {mean[-1]:.1f}", colour(name)))
        limit(axes, history.series([*history.grown, *history.twins.values()], "val_accuracy"), 0.0, 100.0)
        end_labels(axes, float(history.epochs[-1]), ends)

    return draw(paint, 700, 360, "Validation accuracy of grown members and their static twins over epochs")


def difference(history: RunHistory, width: int = 530) -> str:
    """Validation accuracy of each grown member minus its twin's, with the mean's 95% band."""

    def paint(figure: "Figure") -> None:
        axes = epoch_axes(figure.subplots(), history, "grown minus twin, points")
        values = _paired(history, "val_accuracy")
        axes.axhline(0, color=colour("twin"), linewidth=1.2)
        mean = _members(axes, history, values, colour("grown"))
        limit(axes, np.append(values.ravel(), 0.0))
        end_labels(axes, float(history.epochs[-1]), [(mean[-1], signed(mean[-1]), colour("grown"))])

    return draw(paint, width, 340, "Paired difference of validation accuracy over epochs")


def pairs(labels: Sequence[str], grown: Sequence[float], twin: Sequence[float] | None, what: str) -> str:
    """One row a member, best at the top: its twin's accuracy, its own, and the way between."""

    def paint(figure: "Figure") -> None:
        axes = figure.subplots()
        order = np.argsort(grown)
        rows = np.arange(len(order))
        mine = np.array(grown, dtype=float)[order]
        size = 42 if len(rows) <= 16 else 20
        if twin is not None:
            other = np.array(twin, dtype=float)[order]
            ways = [colour("good") if ahead else colour("bad") for ahead in mine >= other]
            axes.hlines(rows, other, mine, colors=ways, linewidth=2.2 if len(rows) <= 16 else 1.4, alpha=0.55)
            axes.scatter(other, rows, s=size, color=colour("twin"), zorder=3, label="static twin")
        axes.scatter(mine, rows, s=size, color=colour("grown"), zorder=3, label="grown")
        axes.set_yticks(rows, [labels[i] for i in order], fontsize=11 if len(rows) <= 16 else 8)
        axes.set_ylim(-0.7, len(rows) - 0.3)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(what)
        axes.set_ylabel("member")
        axes.locator_params(axis="x", nbins=5)
        axes.margins(x=0.08)
        axes.spines["left"].set_visible(False)
        if twin is not None:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, handletextpad=0.1, borderaxespad=0.1)

    return draw(paint, 360, 360, f"{what} of each grown member and its twin")


def size(history: RunHistory, key: str, label: str) -> str:
    """Parameters or FLOPs of grown members and twins over epochs."""

    def paint(figure: "Figure") -> None:
        axes = epoch_axes(figure.subplots(), history, label)
        ends = []
        for name, group, members in _groups(history):
            values = history.series(members, key)
            if name == "grown":
                axes.plot(
                    history.epochs, values.T, color=colour(name), linewidth=0.8, alpha=0.3, drawstyle="steps-post"
                )
            mean = mean_band(values)[0]
            axes.plot(history.epochs, mean, color=colour(name), linewidth=2.2, drawstyle="steps-post")
            ends.append((mean[-1], f"{group} {compact(mean[-1])}", colour(name)))
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda value, _: compact(value))
        end_labels(axes, float(history.epochs[-1]), ends)

    return draw(paint, 530, 270, f"{label} over epochs")


def throughput(history: RunHistory) -> str:
    """Training samples a second, all members together."""

    def paint(figure: "Figure") -> None:
        axes = epoch_axes(figure.subplots(), history, "training samples a second")
        axes.plot(
            history.epochs,
            history.epoch_series("samples_per_s"),
            color=colour("series0"),
            linewidth=1.8,
            marker="o",
            clip_on=False,
            markersize=3,
        )
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda value, _: compact(value))

    return draw(paint, 530, 240, "Training samples a second over epochs")


def time_shares(history: RunHistory) -> str:
    """Where each epoch's wall time went."""

    def paint(figure: "Figure") -> None:
        axes = epoch_axes(figure.subplots(), history, "seconds an epoch")
        parts = {
            "training": ("train_s", "series0"),
            "validation": ("validation_s", "series3"),
            "counterfactuals": ("counterfactual_s", "series2"),
        }
        spent = {label: np.nan_to_num(history.epoch_series(key)[1:]) for label, (key, _) in parts.items()}
        rest = np.nan_to_num(history.epoch_series("wall_s")[1:]) - sum(spent.values())
        layers = [(label, spent[label], colour(tint)) for label, (_, tint) in parts.items()]
        stack(axes, [*layers, ("other", rest.clip(min=0), colour("twin"))])
        axes.set_ylim(bottom=0)
        legend_above(axes)

    return draw(paint, 530, 240, "Seconds an epoch by what they were spent on")


def _members(axes: "Axes", history: RunHistory, values: np.ndarray, tint: str) -> np.ndarray:
    """Every member thin, their mean thick in its 95% band. values: [M, T]; returns the mean, [T]."""
    if len(values) > 1:
        axes.plot(history.epochs, values.T, color=tint, linewidth=0.8, alpha=0.35 if len(values) < 12 else 0.2)
    mean, low, high = mean_band(values)
    axes.fill_between(history.epochs, low, high, color=tint, alpha=0.18, linewidth=0)
    axes.plot(history.epochs, mean, color=tint, linewidth=2.4)
    return mean


def _groups(history: RunHistory) -> list[tuple[str, str, list[int]]]:
    groups = [("grown", "grown", history.grown)]
    if history.twins:
        groups.insert(0, ("twin", "twin", list(history.twins.values())))
    return groups


def _paired(history: RunHistory, key: str) -> np.ndarray:
    members = [member for member in history.grown if member in history.twins]
    return history.series(members, key) - history.series([history.twins[member] for member in members], key)  # [M, T]

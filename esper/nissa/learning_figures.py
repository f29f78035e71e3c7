"""The report's pictures of a policy: how it learned, and what it chose."""

from typing import TYPE_CHECKING

import numpy as np

from esper.nissa.drawing import draw, epoch_axes, legend_above, stack
from esper.nissa.history import RunHistory
from esper.nissa.palette import colour

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OPERATIONS = {"WAIT": "twin", "GERMINATE": "series3", "ADVANCE": "series0", "CULL": "series7"}


def returns(history: RunHistory) -> str:
    """Mean return of each update's episodes with its 95% band, and that of validation episodes."""

    def paint(figure: "Figure") -> None:
        axes = figure.subplots()
        updates = history.update_series("update")
        mean, spread = history.update_series("return_mean"), history.update_series("return_std")
        half = 1.96 * spread / np.sqrt(np.maximum(history.update_series("episodes_finished"), 1))
        axes.fill_between(updates, mean - half, mean + half, color=colour("series0"), alpha=0.18, linewidth=0)
        axes.plot(updates, mean, color=colour("series0"), linewidth=1.8, label="episodes learned from")
        validation = history.update_series("validation_return")
        known = np.isfinite(validation)
        if known.any():
            axes.plot(
                updates[known], validation[known], color=colour("grown"), linewidth=1.8, marker="o", markersize=4,
                label="validation, on hosts of its own",
            )  # fmt: skip
        axes.set_title("return of an episode", loc="left", color=colour("muted"))
        axes.set_xlabel("update")
        legend_above(axes)

    return draw(paint, 1100, 340, "Mean return over the updates of the policy")


def diagnostics(history: RunHistory) -> str:
    """Entropy, divergence and losses over the updates, as far as the learner has them."""
    shown = {
        "entropy": "entropy, nats",
        "approx_kl": "divergence from the acting policy, nats",
        "value_loss": "value loss",
        "explained_variance": "variance explained by the values",
        "policy_loss": "policy loss",
        "learning_rate": "learning rate",
    }
    found = {key: title for key, title in shown.items() if np.isfinite(history.update_series(key)).any()}

    def paint(figure: "Figure") -> None:
        rows = -(-len(found) // 3)
        grid = figure.subplots(rows, 3, squeeze=False).ravel()
        for axes, (key, title) in zip(grid, found.items(), strict=False):
            axes.plot(history.update_series("update"), history.update_series(key), color=colour("series2"))
            axes.set_title(title, loc="left", color=colour("muted"))
        for axes in grid[len(found) :]:
            axes.set_visible(False)

    return draw(paint, 1100, 170 * -(-len(found) // 3), "The learner's own figures over updates") if found else ""


def choices(history: RunHistory) -> str:
    """Which share of grown members was asked to do what, epoch by epoch; planting is told apart by blueprint."""
    counts: dict[str, np.ndarray] = {}
    for index, record in enumerate(history.records[1:]):
        for row in record["members"]:
            action = row.get("action")
            if row.get("is_twin") or not action:
                continue
            name = action["blueprint"] if action["operation"] == "GERMINATE" else action["operation"]
            counts.setdefault(name, np.zeros(len(history.records) - 1))[index] += 100 / len(history.grown)
    operations = [name for name in _OPERATIONS if name in counts]
    if operations in ([], ["WAIT"]) and len(counts) == len(operations):
        return ""
    blueprints = sorted(set(counts) - set(operations), key=lambda name: -counts[name].sum())

    def paint(figure: "Figure") -> None:
        axes = epoch_axes(figure.subplots(), history, "share of members, %")
        tints = ["series1", "series2", "series3", "series4", "series5", "series6", "grown", "good"]
        layers = [
            (f"plant {name}", counts[name], colour(tint)) for name, tint in zip(blueprints, tints * 9, strict=False)
        ]
        words = {"ADVANCE": "advance", "CULL": "cull", "WAIT": "wait"}
        layers += [(words[name], counts[name], colour(_OPERATIONS[name])) for name in words if name in counts]
        stack(axes, layers)
        axes.set_ylim(0, 100)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=0.9)

    return draw(paint, 1100, 300, "What was asked for over epochs")

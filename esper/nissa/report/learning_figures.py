"""The report's pictures of a policy: how it learned, and what it chose."""

from itertools import cycle

import numpy as np

from esper.files.records import RETURN_UNIT
from esper.nissa.record_view import REFERENCES, return_text
from esper.nissa.report.history import RunHistory
from esper.nissa.report.plots import Plot, over_epochs, picture, span, text_width, tint
from esper.nissa.statistics import half_width

_DIAGNOSTICS = {
    "entropy": "entropy, nats",
    "approx_kl": "divergence from the acting policy, nats",
    "value_loss": "value loss",
    "explained_variance": "variance explained by the values",
    "policy_loss": "policy loss",
    "learning_rate": "learning rate",
}
_OPERATIONS = {"ADVANCE": ("advance", "series0"), "CULL": ("cull", "series7"), "WAIT": ("wait", "twin")}
_SERIES = ("series1", "series2", "series3", "series4", "series5", "series6", "grown", "good")


def returns(history: RunHistory) -> str:
    """Mean return of each update's episodes with its 95% band, that of validation episodes, and the references."""
    unit = str(history.run.get(RETURN_UNIT) or "")
    scale = 100.0 if unit else 1.0
    updates, validation = history.update_series("update"), scale * history.update_series("validation_return")
    mean, spread = (scale * history.update_series(f"return_{name}") for name in ("mean", "std"))
    episodes = np.nan_to_num(history.update_series("episodes_finished"))
    half = half_width(spread * np.sqrt(episodes / np.maximum(episodes - 1, 1)), episodes)  # of the sample's deviation
    last = history.updates[-1]
    beside = {name: last[key] for key, name in REFERENCES.items() if last.get(key) is not None}
    y = span(np.concatenate([mean - half, mean, mean + half, validation, scale * np.array([*beside.values()])]))
    words = [f"{name} {return_text(value, unit)}" for name, value in beside.items()]
    right = max([20, *(12 + text_width(text) for text in words)])
    plot = _over_updates(history, ", ".join(filter(None, ("return of an episode", unit))), y, (1100, 340), right)
    levels = [scale * value for value in beside.values()]
    for height in levels:
        plot.level(height)
    plot.names(last["update"], [(height, text, tint("muted")) for height, text in zip(levels, words, strict=True)])
    plot.band(updates, mean - half, mean + half, tint("series0"))
    plot.lines(updates, mean, tint("series0"), 1.8)
    entries = [("episodes learned from", tint("series0"))]
    known = np.isfinite(validation)
    if known.any():
        plot.lines(updates[known], validation[known], tint("grown"), 1.8)
        plot.dots(updates, validation, tint("grown"), 2.5)
        entries.append(("validation, on hosts of its own", tint("grown")))
    plot.legend(entries)
    return picture("Mean return over the updates of the policy", plot)


def diagnostics(history: RunHistory) -> str:
    """Entropy, divergence and losses over the updates, as far as the learner has them."""
    plots = []
    for key, heading in _DIAGNOSTICS.items():
        values = history.update_series(key)
        if np.isfinite(values).any():
            plot = _over_updates(history, heading, span(values), (366, 180))
            plot.lines(history.update_series("update"), values, tint("series2"), 1.5)
            plots.append(plot)
    return picture("The learner's own figures over updates", *plots, columns=3) if plots else ""


def choices(history: RunHistory) -> str:
    """Which share of grown members was asked to do what, epoch by epoch; planting is told apart by blueprint."""
    counts: dict[str, np.ndarray] = {}
    for index, record in enumerate(history.records[1:]):
        for row in record["members"]:
            action = row.get("action") or {}
            name = action.get("operation")
            name = action.get("blueprint") if name == "GERMINATE" else name
            if row.get("is_twin") or not name:
                continue
            counts.setdefault(name, np.zeros(len(history.records) - 1))[index] += 100 / len(history.grown)
    if not set(counts) - {"WAIT"}:
        return ""
    blueprints = sorted(set(counts) - set(_OPERATIONS), key=lambda name: (-counts[name].sum(), name))
    looks = [(name, f"plant {name}", tint(series)) for name, series in zip(blueprints, cycle(_SERIES), strict=False)]
    looks += [(name, word, tint(series)) for name, (word, series) in _OPERATIONS.items() if name in counts]
    right = 40 + min(max(text_width(word) for _, word, _ in looks), 260)
    plot = over_epochs(history, "share of members, %", (0, 100), (1100, max(300, 60 + 20 * len(looks))), right=right)
    plot.stack([(counts[name], colour) for name, _, colour in looks])
    plot.legend([(word, colour) for _, word, colour in reversed(looks)], beside=True)
    return picture("What was asked for over epochs", plot)


def _over_updates(
    history: RunHistory, heading: str, y: tuple[float, float], size: tuple[int, int], right: float = 20
) -> Plot:
    first, last = (history.updates[place]["update"] for place in (0, -1))
    return Plot(heading, (first, last), y, size, across="update", right=right)

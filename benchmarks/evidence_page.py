"""docs/evidence.md and its pictures, out of the runs that benchmarks.evidence made.

python -m benchmarks.evidence_page [--out outputs/evidence]
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from esper.config.composing import compose
from esper.nissa.report.history import read_run
from esper.nissa.sinks.jsonl import read_jsonl
from esper.nissa.statistics import half_width, mean_band, mean_interval, paired_difference
from esper.tasks import build_task

PAGE = Path("docs/evidence.md")
PICTURES = Path("docs/evidence")
BACKWARD = 3  # a training step costs about three forward passes
NAMES = {
    "static": "static host", "random": "random growth", "scheduled": "fixed schedule", "heuristic": "heuristic",
    "iql": "IQL (offline)", "reinforce": "REINFORCE", "ppo": "PPO", "scratch": "PPO's final networks from scratch",
}  # fmt: skip
COLOURS = {
    "static": "#737b87", "random": "#c9a227", "scheduled": "#8a5fd0", "heuristic": "#2f6fcb", "iql": "#c2388b",
    "reinforce": "#d2691e", "ppo": "#0f7f78", "scratch": "#c23434",
}  # fmt: skip
PAIRS = (
    ("ppo", "heuristic"), ("heuristic", "static"), ("ppo", "static"), ("ppo", "scheduled"), ("ppo", "random"),
    ("ppo", "scratch"), ("reinforce", "heuristic"), ("iql", "heuristic"), ("random", "static"),
)  # fmt: skip


@dataclass
class Outcome:
    """One controller on the held-out hosts. Accuracies in percent; curves and FLOPs: [hosts, epochs + 1].

    test: [seeds], the mean of a seed's hosts: they share the order of the data, and are not independent.
    """

    test: list[float]
    hosts: int
    parameters: np.ndarray
    curve: np.ndarray
    flops: np.ndarray
    seeds: dict[str, int]
    wall_s: float


def gather(out: Path, name: str, seeds: Sequence[int], samples: int) -> Outcome | None:
    """What the runs of one controller came to; None where one is missing."""
    test: list[float] = []
    rows: list[list[dict[str, Any]]] = []
    counts = {"planted": 0, "fossilized": 0, "culled": 0}
    wall_s = 0.0
    for seed in seeds:
        folder = out / f"{name}_{seed}"
        if not (folder / "run.json").exists():
            return None
        run = json.loads((folder / "run.json").read_text())
        if run["status"] != "finished":
            return None
        test.append(float(np.mean(run["summary"]["grown"]["test_accuracy"])))
        wall_s += run["wall_s"]
        for key in counts:
            counts[key] += run["summary"]["seeds"].get(key, 0)
        records, _ = read_jsonl(folder / "metrics.jsonl")
        rows += [[record["members"][member] for record in records] for member in range(len(records[0]["members"]))]
    flops = np.array([[row["flops_per_sample"] for row in host] for host in rows], dtype=float)
    flops[:, 0] = 0.0  # nothing was trained before epoch 1
    return Outcome(
        test,
        len(rows),
        np.array([host[-1]["parameter_count"] for host in rows]),
        np.array([[row["val_accuracy"] for row in host] for host in rows], dtype=float),
        BACKWARD * samples * flops.cumsum(axis=1),
        counts,
        wall_s,
    )


def write_page(out: Path, seeds: Sequence[int]) -> None:
    """Write the page and its pictures."""
    samples = build_task(compose().task).epoch_size
    found = {name: outcome for name in NAMES if (outcome := gather(out, name, seeds, samples))}
    PICTURES.mkdir(parents=True, exist_ok=True)
    matplotlib.use("Agg")
    draw_race(found)
    pictures = ["![Accuracy of held-out hosts over training FLOPs and epochs](evidence/race.png)"]
    for name in ("ppo", "reinforce", "marathon"):
        folder = out / (name if name == "marathon" else f"learn_{name}")
        if folder.exists() and draw_learning(folder, name):
            pictures.append(f"![Returns of {name} over its updates](evidence/learning_{name}.png)")
    if "ppo" in found:
        draw_choices([out / f"ppo_{seed}" for seed in seeds])
        pictures.append("![What PPO asks for, epoch by epoch](evidence/choices.png)")
    template = (Path(__file__).parent / "evidence_template.md").read_text(encoding="utf-8")
    hosts = next(iter(found.values())).hosts
    text = template.format(
        hosts=hosts,
        table="\n".join(table(found)),
        pairs="\n".join(pair_table(found)),
        flops="\n".join(flops_lines(found)),
        marathon="\n".join(marathon_lines(out / "marathon")),
        pictures="\n\n".join(pictures),
    )
    PAGE.write_text(text, encoding="utf-8")
    print(text)


def table(found: dict[str, Outcome]) -> list[str]:
    """One row a controller."""
    lines = [
        "| controller | test accuracy, % | parameters | training GFLOPs | planted | fossilised | culled | wall, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, outcome in found.items():
        counts = " | ".join(f"{outcome.seeds[key] / outcome.hosts:.1f}" for key in ("planted", "fossilized", "culled"))
        counts = "- | - | -" if name == "scratch" else counts
        lines.append(
            f"| {NAMES[name]} | {mean_interval(outcome.test).text()} | {outcome.parameters.mean():,.0f} | "
            f"{outcome.flops[:, -1].mean() / 1e9:.2f} | {counts} | {outcome.wall_s:.0f} |"
        )
    return lines


def pair_table(found: dict[str, Outcome]) -> list[str]:
    """Paired differences of test accuracy, seed by seed."""
    lines = ["| | difference of test accuracy, points | excludes zero |", "|---|---|---|"]
    for first, second in PAIRS:
        if first in found and second in found:
            gain = paired_difference(found[first].test, found[second].test)
            excludes = gain.low is not None and gain.high is not None and (gain.low > 0 or gain.high < 0)
            lines.append(
                f"| {NAMES[first]} minus {NAMES[second]} | {gain.text(signed=True)} | {'yes' if excludes else 'no'} |"
            )
    return lines


def flops_lines(found: dict[str, Outcome]) -> list[str]:
    """How soon grown hosts are as good as their final networks trained from scratch."""
    if "scratch" not in found or "ppo" not in found:
        return ["Not measured yet."]
    scratch, ppo = found["scratch"], found["ppo"]
    target, spent = scratch.curve[:, -1].mean(), scratch.flops[:, -1].mean()
    reached = np.flatnonzero(ppo.curve.mean(axis=0) >= target)
    total = ppo.flops[:, -1].mean() / spent
    if not reached.size:
        return [
            f"From scratch these networks reach {target:.1f}% on validation; PPO's hosts do not get there "
            f"({ppo.curve[:, -1].mean():.1f}% at {total:.0%} of the training FLOPs)."
        ]
    share = ppo.flops[:, reached[0]].mean() / spent
    return [
        f"From scratch these networks end at {target:.1f}% on validation. PPO's hosts are there after epoch "
        f"{reached[0]}, at {share:.0%} of the training FLOPs (aim: at most 55%), and end at "
        f"{ppo.curve[:, -1].mean():.1f}% after {total:.0%}."
    ]


def marathon_lines(folder: Path) -> list[str]:
    """REINFORCE over more than ten thousand episodes: the last tenth against the first."""
    if not (folder / "learning.jsonl").exists():
        return ["Not measured yet."]
    updates = read_run(folder).updates
    tenth = max(1, len(updates) // 10)
    first, last = ([row["return_mean"] for row in part if row.get("return_mean")] for part in _ends(updates, tenth))
    minutes = sum(row["wall_s"] for row in updates) / 60
    return [
        f"{updates[-1]['episodes']:,} episodes in {len(updates)} updates, {minutes:.0f} minutes: mean return "
        f"{mean_interval(first).text(3)} in the first tenth of the updates, {mean_interval(last).text(3)} in the last "
        "(means over updates, 95% t-intervals).",
    ]


def _ends(rows: Sequence[dict[str, Any]], count: int) -> tuple[Sequence[dict[str, Any]], Sequence[dict[str, Any]]]:
    return rows[:count], rows[-count:]


def draw_race(found: dict[str, Outcome]) -> None:
    """Validation accuracy over epochs, and over training FLOPs."""
    from matplotlib import pyplot

    figure, (over_epochs, over_flops) = pyplot.subplots(1, 2, figsize=(12, 4.6), layout="constrained", sharey=True)
    for name, outcome in found.items():
        by_seed = outcome.curve.reshape(len(outcome.test), -1, outcome.curve.shape[1]).mean(axis=1)
        mean, low, high = mean_band(by_seed)
        epochs, flops = np.arange(len(mean)), outcome.flops.mean(axis=0) / 1e9
        for axes, x in ((over_epochs, epochs), (over_flops, flops)):
            axes.plot(x, mean, color=COLOURS[name], linewidth=2, label=NAMES[name])
        over_epochs.fill_between(epochs, low, high, color=COLOURS[name], alpha=0.12, linewidth=0)
    over_epochs.set(xlabel="epoch", ylabel="validation accuracy, %", ylim=(40, None))
    over_flops.set(xlabel="training GFLOPs")
    over_flops.legend(frameon=False, loc="lower right")
    _finish(figure, "race")


def draw_learning(folder: Path, name: str) -> bool:
    """Mean return over updates; whether there was anything to draw."""
    from matplotlib import pyplot

    history = read_run(folder)
    if len(history.updates) < 2:
        return False
    figure, axes = pyplot.subplots(figsize=(9, 3.4), layout="constrained")
    updates, mean = history.update_series("update"), history.update_series("return_mean")
    episodes = history.update_series("episodes_finished")
    half = half_width(history.update_series("return_std") * np.sqrt(episodes / np.maximum(episodes - 1, 1)), episodes)
    axes.fill_between(updates, mean - half, mean + half, color=COLOURS["ppo"], alpha=0.2, linewidth=0)
    axes.plot(updates, mean, color=COLOURS["ppo"], label="episodes learned from")
    validation = history.update_series("validation_return")
    known = np.isfinite(validation)
    if known.any():
        axes.plot(updates[known], validation[known], "o-", color=COLOURS["heuristic"], label="validation")
    axes.set(xlabel="update", ylabel="return", title=f"{name}: {history.updates[-1]['episodes']:,} episodes")
    axes.legend(frameon=False)
    _finish(figure, f"learning_{name}")
    return True


def draw_choices(folders: Sequence[Path]) -> None:
    """What was asked for in each epoch, as shares of hosts."""
    from matplotlib import pyplot

    records = [read_jsonl(folder / "metrics.jsonl")[0][1:] for folder in folders]
    counts: dict[str, np.ndarray] = {}
    for run in records:
        for epoch, record in enumerate(run):
            for row in record["members"]:
                action = row["action"]
                verb = action["operation"].lower()
                label = f"{action['slot']}: {action['blueprint']}" if verb == "germinate" else verb
                counts.setdefault(label, np.zeros(len(run)))[epoch] += 100 / len(folders) / len(record["members"])
    order = sorted(counts, key=lambda label: (label in ("wait", "cull", "advance"), -counts[label].sum()))
    figure, axes = pyplot.subplots(figsize=(11, 4), layout="constrained")
    bottom = np.zeros(len(records[0]))
    colours = matplotlib.colormaps["tab20"]
    fixed = {"wait": "#dfe3e8", "advance": "#33415c", "cull": "#000000"}
    for index, label in enumerate(order):
        tint = fixed.get(label, colours((2 * index + index // 10) % 20))
        axes.bar(np.arange(1, len(bottom) + 1), counts[label], 1.0, bottom=bottom, color=tint, label=label)
        bottom += counts[label]
    axes.set(xlabel="epoch", ylabel="share of hosts, %", ylim=(0, 100))
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    _finish(figure, "choices")


def _finish(figure: Any, name: str) -> None:
    from matplotlib import pyplot

    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURES / f"{name}.png", dpi=100)
    pyplot.close(figure)


if __name__ == "__main__":
    from benchmarks.evidence import HELD_OUT_SEEDS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/evidence"))
    write_page(parser.parse_args().out, HELD_OUT_SEEDS)

"""Does the curriculum choose better blueprints than the heuristic's own order?

    python -m benchmarks.curriculum [--json FILE] [--seeds 100 101 102 103] [--members 16] [--epochs 25] [overrides]

Hosts grow under the heuristic on the default task, by preference and by curriculum, each with up to three live seeds a
host at a time and with one (then what became of the first seeds is known before the next are planted). All ways start
from the same weights and see the same data in the same order. Differences are paired host by host, seed by seed of
the run, to the way that is named; intervals are Student's t at 95% over all hosts. Hosts of one run share a curriculum,
so that the differences of the single runs are shown too. `overrides` (key=value) hold for all ways.
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from esper.builders.policy import build_policy
from esper.builders.population import build_growth
from esper.config.composing import compose
from esper.engine.epoch import EpochRunner
from esper.leyline import SeedStage
from esper.nissa.statistics import Interval, mean_interval, paired_difference

ONE_BY_ONE = ("policy.max_live_seeds=1",)
CURRICULUM = ("policy.curriculum=true",)
WAYS: dict[str, tuple[tuple[str, ...], str | None]] = {  # overrides, and the way it is compared to
    "preference": ((), None),
    "curriculum": (CURRICULUM, "preference"),
    "preference, one by one": (ONE_BY_ONE, "preference"),
    "curriculum, one by one": ((*CURRICULUM, *ONE_BY_ONE), "preference, one by one"),
}


def grow(seed: int, members: int, overrides: list[str]) -> dict[str, Any]:
    """One run: every host's accuracy on the test split and parameters; what was planted, kept and learned."""
    fixed = ["policy=heuristic", "controls=[]", "engine.kind=fused", "engine.threads=1"]
    config = compose([*fixed, f"engine.members={members}", f"seed={seed}", *overrides])
    grown = build_growth(config)
    growth, (controller, _) = grown.growth, build_policy(config, grown)
    epochs = EpochRunner([growth])
    (reports,) = epochs.reports()
    while not epochs.done:
        ((reports, _),) = epochs.step([controller.act(reports)])
    (tested,) = epochs.test()
    slots = [slot for report in reports for slot in report.slots.values()]
    return {
        "accuracy": tested.accuracy.tolist(),
        "parameters": [report.parameter_count for report in reports],
        "planted": Counter(entry["blueprint"] for entry in growth.growth_log),
        "kept": Counter(slot.blueprint_id for slot in slots if slot.stage is SeedStage.FOSSILIZED),
        "learned": controller.state_dict()["curriculum"] or {},
    }


def measure(seeds: list[int], members: int, overrides: list[str]) -> list[dict[str, Any]]:
    """One row a way; the ways of a seed follow one another."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in WAYS}
    for seed in seeds:
        for name, (own, _) in WAYS.items():
            started = time.perf_counter()
            runs[name].append(grow(seed, members, [*overrides, *own]))
            print(f"seed {seed}, {name}: {time.perf_counter() - started:.0f} s", flush=True)
    return [row_of(name, runs[name], runs[other] if other else None, other) for name, (_, other) in WAYS.items()]


def row_of(
    name: str, runs: list[dict[str, Any]], others: list[dict[str, Any]] | None, other: str | None
) -> dict[str, Any]:
    """A way's runs in one row, beside those of the way it is compared to."""
    accuracy = _by_run(runs, "accuracy")
    row: dict[str, Any] = {
        "way": name,
        "accuracy": mean_interval(accuracy.ravel()).to_dict(),
        "parameters": float(_by_run(runs, "parameters").mean()),
        "planted": _total(runs, "planted"),
        "kept": _total(runs, "kept"),
        "rewards": _rewards([run["learned"] for run in runs]),
        "runs": accuracy.tolist(),
    }
    if others is not None:
        theirs = _by_run(others, "accuracy")
        row["compared_to"] = other
        row["difference"] = paired_difference(accuracy.ravel().tolist(), theirs.ravel().tolist()).to_dict()
        row["by_seed"] = (accuracy - theirs).mean(axis=1).tolist()
    return row


def _by_run(runs: list[dict[str, Any]], key: str) -> np.ndarray:
    return np.array([run[key] for run in runs], dtype=float)  # [runs, M]


def _total(runs: list[dict[str, Any]], key: str) -> dict[str, int]:
    """Counts of all runs together, the most frequent first."""
    return dict(sum((run[key] for run in runs), Counter()).most_common())


def _rewards(learned: list[dict[str, Any]]) -> dict[str, float]:
    """Mean reward of each blueprint over all runs, the highest first."""
    total, trials = Counter[str](), Counter[str]()
    for blueprints in learned:
        for name, stats in blueprints.items():
            total[name] += stats["total_reward"]
            trials[name] += stats["trials"]
    means = {name: total[name] / trials[name] for name in trials if trials[name]}
    return dict(sorted(means.items(), key=lambda item: -item[1]))


def show(rows: list[dict[str, Any]]) -> None:
    """The rows as a table."""
    table = Table(title="The heuristic's choice of blueprints: test accuracy, %", title_justify="left")
    for column in ("way", "accuracy", "against", "difference", "by seed", "parameters", "kept"):
        table.add_column(column, justify="left" if column in ("way", "against", "kept") else "right")
    for row in rows:
        compared = ["", "", ""]
        if "difference" in row:
            difference = Interval(**row["difference"]).text(signed=True)
            compared = [row["compared_to"], difference, " ".join(f"{value:+.1f}" for value in row["by_seed"])]
        kept = ", ".join(f"{name} {count}" for name, count in row["kept"].items())
        table.add_row(row["way"], f"{row['accuracy']['mean']:.1f}", *compared, f"{row['parameters']:,.0f}", kept)
    console = Console(width=160)
    console.print(table)
    for row in rows:
        if row["rewards"]:
            console.print(
                f"{row['way']}, mean reward:", ", ".join(f"{name} {mean:.2f}" for name, mean in row["rewards"].items())
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102, 103])
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("overrides", nargs="*", default=[])
    options = parser.parse_args()
    rows = measure(options.seeds, options.members, [f"epochs={options.epochs}", *options.overrides])
    show(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

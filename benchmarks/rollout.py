"""A rollout of growth episodes under the random controller: fused against one by one, and where the time goes.

    python -m benchmarks.rollout [--json FILE] [--members 32] [--epochs 25] [--rounds 1] [OVERRIDE ...]

Both engines take turns, round by round, in one process, with the same seeds; a figure is the median of its rounds. A
round is one episode of every member, its start included. Control is all that a policy is asked and told: observations,
masks, the choice of actions, rewards. Overrides are those of `python -m esper.run`.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from esper.builders.population import build_environment
from esper.config import compose
from esper.engine.environment import GrowthVectorEnv
from esper.tamiyo.random import RandomController

ENGINES = ("fused", "sequential")
PARTS = ("training", "validation", "counterfactuals", "control", "everything else")


class Rollout:
    """One engine's environment, and the seconds of its last round by part."""

    def __init__(self, kind: str, options: argparse.Namespace) -> None:
        fixed = [f"engine={kind}", f"engine.members={options.members}", f"epochs={options.epochs}"]
        self.env, self.engine = build_environment(compose([*options.overrides, *fixed]))
        self.seconds: dict[str, float] = {}
        self.policy = RandomController([(name, 0) for name in self.env.layout.blueprints], seed=0)
        self.env.encoder.encode = self._as_control(self.env.encoder.encode)
        self.env.masks = self._as_control(self.env.masks)
        self.env.reward = self._as_control(self.env.reward)
        self.act = self._as_control(self._act)

    def round(self, seed: int) -> None:
        """One episode of every member; the start that is timed is the one after it."""
        torch.set_num_threads(self.engine["threads"])
        self.env.reset(seed=seed)
        self.seconds = dict.fromkeys(PARTS, 0.0)
        started = time.perf_counter()
        for _ in range(self.env.growth.epochs):
            self.env.step(self.act(self.env))
            spent = self.env.growth.seconds
            for part, name in (("training", "train"), ("validation",) * 2, ("counterfactuals", "counterfactual")):
                self.seconds[part] += spent.get(name, 0.0)
        wall_s = time.perf_counter() - started
        self.seconds |= {"everything else": wall_s - sum(self.seconds.values()), "all": wall_s}

    def _act(self, env: GrowthVectorEnv) -> np.ndarray:
        return np.array([env.layout.number(action) for action in self.policy.act(env.growth.reports())])

    def _as_control(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            started = time.perf_counter()
            result = work(*args)
            self.seconds["control"] = self.seconds.get("control", 0.0) + time.perf_counter() - started
            return result

        return timed


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row an engine."""
    rollouts = {kind: Rollout(kind, options) for kind in ENGINES}
    rounds: dict[str, list[dict[str, float]]] = {kind: [] for kind in ENGINES}
    for turn in range(options.rounds):
        for kind, rollout in rollouts.items():
            rollout.round(seed=turn)
            rounds[kind].append(rollout.seconds)
    rows: list[dict[str, Any]] = []
    for kind, rollout in rollouts.items():
        seconds = {part: statistics.median(found[part] for found in rounds[kind]) for part in (*PARTS, "all")}
        setting = {"members": options.members, "epochs": options.epochs, "threads": rollout.engine["threads"]}
        rows.append({"engine": kind, **setting, "seconds": {part: round(s, 3) for part, s in seconds.items()}})
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Seconds and shares, and how the engines compare."""
    title = f"{rows[0]['members']} episodes of {rows[0]['epochs']} epochs, random controller"
    table = Table(title=title, title_justify="left")
    for column in ("engine", "threads", "seconds", *PARTS, f"times {rows[-1]['engine']}"):
        table.add_column(column, justify="left" if column == "engine" else "right")
    for row in rows:
        seconds = row["seconds"]
        shares = [f"{seconds[part]:.2f} ({100 * seconds[part] / seconds['all']:.0f}%)" for part in PARTS]
        ratio = rows[-1]["seconds"]["all"] / seconds["all"]
        table.add_row(row["engine"], str(row["threads"]), f"{seconds['all']:.2f}", *shares, f"{ratio:.2f}")
    Console(width=140).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--members", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("overrides", nargs="*", help="such as host=cnn_wide")
    options = parser.parse_args()
    rows = measure(options)
    show(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

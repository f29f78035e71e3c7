"""IQL on a CartPole dataset of mixed quality, beside behaviour cloning and prioritised sampling.

    python -m benchmarks.offline [--json FILE] [--seeds 5] [--episodes 50] [--transitions 20000] [--steps 5000]

Half of the transitions come from acting at random, a quarter each from a noisy controller that balances the pole and
from one that hastens its fall. All ways learn from the same transitions, with the same network and number of steps;
behaviour cloning is IQL's policy at beta = 0. Returns, after a tenth of the steps and at the end, are means of
`episodes` episodes a seed, at most 500 each; intervals are Student's t over seeds at 95%.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from esper.nissa.statistics import mean_interval, paired_difference
from esper.simic.iql.dataset import Transitions
from esper.simic.iql.model import IQL
from esper.simic.iql.offline import OfflineTraining

ENVIRONMENTS = 10
LONGEST = 500
BALANCE = np.array([0.2, 0.5, 3.0, 1.0])  # pushes right where position, speed, angle and spin say so
NOISE = 0.4  # share of the controllers' actions that are drawn

Policy = Callable[[NDArray[np.float32]], NDArray[np.int64]]
WAYS: dict[str, dict[str, Any]] = {
    "behaviour cloning": {"beta": 0.0, "prioritized": False},
    "iql": {"beta": 3.0, "prioritized": False},
    "iql, prioritised": {"beta": 3.0, "prioritized": True},
}


def mixed_policy(kind: str, rng: np.random.Generator) -> Policy:
    """ "random", "good" (balances) or "bad" (hastens the fall); each with noise."""

    def act(states: NDArray[np.float32]) -> NDArray[np.int64]:
        drawn = rng.integers(2, size=len(states))
        if kind == "random":
            return drawn
        pushes = (states @ BALANCE > 0) == (kind == "good")
        return np.where(rng.random(len(states)) < NOISE, drawn, pushes.astype(np.int64))

    return act


def collect(policy: Policy, count: int, seed: int) -> tuple[Transitions, float]:
    """`count` transitions of a policy, and the mean return of its finished episodes."""
    env = CartPoleVectorEnv(ENVIRONMENTS, max_episode_steps=LONGEST)
    states, _ = env.reset(seed=seed)
    rows: list[tuple[NDArray[Any], ...]] = []
    returns: list[int] = []
    lengths = np.zeros(ENVIRONMENTS, int)
    is_reset = np.zeros(ENVIRONMENTS, bool)  # the step after an episode's last only resets
    held = 0
    while held < count:
        actions = policy(states)
        following, rewards, terminated, truncated, _ = env.step(actions)
        kept = ~is_reset
        rows.append(tuple(part[kept] for part in (states, actions, rewards, following, terminated)))
        held += int(kept.sum())
        lengths = np.where(is_reset, 0, lengths + 1)
        states, is_reset = following, terminated | truncated
        returns += lengths[is_reset].tolist()
    parts = [torch.from_numpy(np.concatenate(column)[:count]) for column in zip(*rows, strict=True)]
    observed, actions, rewards, following, dones = parts
    masks = torch.ones(count, 2, dtype=torch.bool)
    found = Transitions(observed, actions, rewards.float(), following, dones, masks)
    return found, float(np.mean(returns)) if returns else float("nan")


def mixed_dataset(count: int, seed: int) -> tuple[Transitions, dict[str, float]]:
    """`count` transitions of mixed quality, and the mean return of each kind of policy among them."""
    parts, returns = [], {}
    for number, (kind, share) in enumerate((("random", 0.5), ("good", 0.25), ("bad", 0.25))):
        stream = [seed, number]
        policy = mixed_policy(kind, np.random.default_rng(stream))
        part, returns[kind] = collect(policy, int(share * count), int(np.random.default_rng(stream).integers(2**31)))
        parts.append(part)
    names = ("states", "actions", "rewards", "next_states", "dones", "masks")
    return Transitions(*(torch.cat([getattr(part, name) for part in parts]) for name in names)), returns


def evaluate(model: IQL, episodes: int, seed: int) -> float:
    """The mean return of as many episodes, one in each environment."""
    env = CartPoleVectorEnv(episodes, max_episode_steps=LONGEST)
    states, _ = env.reset(seed=seed)
    lengths, is_running = np.zeros(episodes), np.ones(episodes, bool)
    while is_running.any():
        actions = model.act(torch.from_numpy(states)).numpy()
        states, _, terminated, truncated, _ = env.step(actions)
        lengths += is_running
        is_running &= ~(terminated | truncated)
    return float(lengths.mean())


def learn(transitions: Transitions, steps: int, seed: int, beta: float, prioritized: bool = False) -> Iterator[IQL]:
    """A model under training: after every tenth of the steps, and at the end."""
    sizes = transitions.states.shape[1], transitions.masks.shape[1]
    model = IQL(*sizes, beta=beta, hidden=(64, 64), learning_rate=1e-3, polyak=0.02, seed=seed)
    training = OfflineTraining(
        model, transitions, steps, prioritized=prioritized, seed=seed, steps_per_update=max(1, steps // 10)
    )
    while not training.done:
        training.step()
        yield model


def measure(seeds: int, episodes: int, count: int, steps: int) -> list[dict[str, Any]]:
    """One row a way: the mean returns of every seed along the training, and the paired difference to cloning."""
    rows: dict[str, dict[str, Any]] = {name: {"way": name, "curves": [], "seconds": []} for name in WAYS}
    for seed in range(seeds):
        transitions, sources = mixed_dataset(count, seed)
        print(f"seed {seed}: " + ", ".join(f"{kind} {value:.0f}" for kind, value in sources.items()), flush=True)
        for name, options in WAYS.items():
            started, judging = time.perf_counter(), 0.0
            curve = []
            for model in learn(transitions, steps, seed, **options):
                paused = time.perf_counter()
                curve.append(evaluate(model, episodes, seed=1_000_000 + seed))
                judging += time.perf_counter() - paused
            rows[name]["curves"].append(curve)
            rows[name]["seconds"].append(round(time.perf_counter() - started - judging, 1))
    cloned = [curve[-1] for curve in rows["behaviour cloning"]["curves"]]
    for row in rows.values():
        final = [curve[-1] for curve in row["curves"]]
        row["early"] = mean_interval([curve[0] for curve in row["curves"]]).to_dict()
        row["final"] = mean_interval(final).to_dict()
        row["over_cloning"] = paired_difference(final, cloned).to_dict()
    return list(rows.values())


def show(rows: list[dict[str, Any]]) -> None:
    """The rows as a table."""
    table = Table(title="CartPole from mixed data: mean return", title_justify="left")
    for column in ("way", "after a tenth", "95%", "at the end", "95%", "over cloning", "95% paired", "s"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for row in rows:
        cells = [row["way"]]
        for interval in (row["early"], row["final"], row["over_cloning"]):
            bounds = "" if interval["low"] is None else f"[{interval['low']:.0f}, {interval['high']:.0f}]"
            cells += [f"{interval['mean']:.0f}", bounds]
        table.add_row(*cells, f"{np.mean(row['seconds']):.0f}")
    Console(width=100).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--transitions", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=5000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(options.seeds, options.episodes, options.transitions, options.steps)
    show(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

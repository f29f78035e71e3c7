"""Steps and time that learners take to solve CartPole-v1, side by side with Stable-Baselines3's PPO.

    python -m benchmarks.learners [--json FILE] [--only NAME] [--seeds 5] [--max-steps 100000]

Every learner acts in eight environments. After each 2,048 steps its likeliest actions are scored over 50 whole episodes
that are the same for all; it is done at a mean return of 475. Scoring is not timed. Learners take turns, seed by seed,
in one process on one thread. Stable-Baselines3 has the settings that its own zoo tuned for this task; one of ours that
has not arrived counts with the steps and time it was given.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from rich.console import Console
from rich.table import Table

from esper.simic.on_policy.base import PolicyLearner
from esper.simic.on_policy.collector import Collector
from esper.simic.ppo.agent import PPOAgent
from esper.simic.ppo.config import PPOPolicyConfig
from esper.simic.reinforce.agent import ReinforceAgent
from esper.simic.reinforce.config import ReinforcePolicyConfig

TASK, MEMBERS, GOAL = "CartPole-v1", 8, 475.0
STEPS_BETWEEN_SCORES, SCORED_EPISODES, SCORING_SEED = 2048, 50, 10_000
BASELINE = "stable-baselines3 PPO"

Predict = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Result:
    """One learner with one seed. score: of the last scoring."""

    learner: str
    seed: int
    steps: int
    seconds: float
    cpu_seconds: float
    score: float
    solved: bool


class Watch:
    """Scores a learner from time to time, and knows when it is done."""

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps
        self.steps, self.score = 0, 0.0
        self._env = make_env(SCORED_EPISODES)
        self._started = clocks()

    def is_over(self, steps: int, predict: Predict) -> bool:
        """Whether the goal is reached, or the steps are used up."""
        if steps // STEPS_BETWEEN_SCORES > self.steps // STEPS_BETWEEN_SCORES:
            begun = clocks()
            self.score = self._mean_return(predict)
            self._started += clocks() - begun
        self.steps = steps
        return self.score >= GOAL or steps >= self.max_steps

    def result(self, learner: str, seed: int) -> Result:
        """To be asked for at once."""
        seconds, cpu_seconds = (clocks() - self._started).tolist()
        return Result(learner, seed, self.steps, seconds, cpu_seconds, self.score, self.score >= GOAL)

    def _mean_return(self, predict: Predict) -> float:
        observations, _ = self._env.reset(seed=SCORING_SEED)
        returns, going_on = np.zeros(SCORED_EPISODES), np.ones(SCORED_EPISODES, dtype=bool)
        while going_on.any():
            observations, rewards, terminated, truncated, _ = self._env.step(predict(observations))
            returns += rewards * going_on
            going_on &= ~(terminated | truncated)
        return float(returns.mean())


def clocks() -> np.ndarray:
    """Seconds by the clock, and of this process's work; they differ where others use the machine."""
    return np.array([time.perf_counter(), time.process_time()])


def make_env(members: int) -> Any:
    """CartPole that resets within the step that ends an episode."""
    how = {"autoreset_mode": AutoresetMode.SAME_STEP}
    return gymnasium.make_vec(TASK, num_envs=members, vectorization_mode="sync", vector_kwargs=how)


def train_ours(agent: PolicyLearner, steps: int | None, seed: int, watch: Watch) -> None:
    """Rollouts of so many steps of each environment; None: until each has ended an episode."""
    collector, done = Collector(make_env(MEMBERS), agent, seed), 0
    masks = np.ones((SCORED_EPISODES, 2), dtype=bool)

    def predict(observations: np.ndarray) -> np.ndarray:
        return agent.act(observations, masks, deterministic=True).actions.numpy()

    while not watch.is_over(done, predict):
        rollout = collector.collect(steps)
        agent.update(rollout)
        done += rollout.actions.numel()


def esper_ppo(seed: int, watch: Watch) -> None:
    """The baseline's settings, but for half as many passes over each rollout, in two minibatches."""
    steps = 32
    settings = PPOPolicyConfig(
        updates=watch.max_steps // (steps * MEMBERS),
        gamma=0.98,
        gae_lambda=0.8,
        bootstrap_truncated=True,
        epochs=10,
        minibatches=2,
        learning_rate=1e-3,
        final_learning_rate=0.0,
        entropy_coefficient=0.0,
        final_entropy_coefficient=0.0,
        target_kl=None,
    )
    train_ours(PPOAgent(4, action_dim=2, settings=settings, seed=seed), steps, seed, watch)


def esper_reinforce(seed: int, watch: Watch) -> None:
    """Whole episodes."""
    settings = ReinforcePolicyConfig(
        updates=200,
        gamma=0.99,
        bootstrap_truncated=True,
        learning_rate=1e-2,
        final_learning_rate=1e-3,
        entropy_coefficient=0.0,
        final_entropy_coefficient=0.0,
    )
    train_ours(ReinforceAgent(4, action_dim=2, settings=settings, seed=seed), None, seed, watch)


def sb3_ppo(seed: int, watch: Watch) -> None:
    """The zoo's settings for CartPole-v1."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    class Scoring(BaseCallback):
        def _on_step(self) -> bool:
            predict = self.model.predict
            return not watch.is_over(self.num_timesteps, lambda seen: predict(seen, deterministic=True)[0])

    model = PPO(
        "MlpPolicy",
        make_vec_env(TASK, MEMBERS, seed=seed),
        n_steps=32,
        batch_size=256,
        gae_lambda=0.8,
        gamma=0.98,
        n_epochs=20,
        ent_coef=0.0,
        learning_rate=lambda left: 1e-3 * left,
        clip_range=lambda left: 0.2 * left,
        seed=seed,
        device="cpu",
    )
    model.learn(100_000, callback=Scoring())


LEARNERS: dict[str, Callable[[int, Watch], None]] = {
    "esper PPO": esper_ppo,
    "esper REINFORCE": esper_reinforce,
    BASELINE: sb3_ppo,
}


def measure(names: list[str], seeds: int, max_steps: int) -> list[Result]:
    """Seed by seed, each learner in turn; a first short run of each warms up."""
    for name in names:
        LEARNERS[name](0, Watch(512))
    results = []
    for seed in range(seeds):
        for name in names:
            watch = Watch(max_steps)
            LEARNERS[name](seed, watch)
            results.append(watch.result(name, seed))
    return results


def summary(results: list[Result]) -> list[dict[str, Any]]:
    """One row a learner: medians over its seeds, and their ratio to the baseline's."""
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(result.learner for result in results):
        own = [result for result in results if result.learner == name]
        steps = [result.steps for result in own]
        rows.append(
            {
                "learner": name,
                "solved": f"{sum(result.solved for result in own)} of {len(own)}",
                "steps": round(statistics.median(steps)),
                "fewest": min(steps),
                "most": max(steps),
                "seconds": round(statistics.median(result.seconds for result in own), 2),
                "cpu_seconds": round(statistics.median(result.cpu_seconds for result in own), 2),
                "steps_per_s": round(sum(steps) / sum(result.seconds for result in own)),
            }
        )
    baseline = next((row for row in rows if row["learner"] == BASELINE), None)
    for row in rows if baseline else []:
        row |= {f"{name}_ratio": round(row[name] / baseline[name], 2) for name in ("steps", "seconds", "cpu_seconds")}
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """The summary as a table."""
    table = Table(title=f"{TASK}: to a mean return of {GOAL:g} (medians; ratios to {BASELINE})", title_justify="left")
    for name in rows[0]:
        table.add_column(
            name.replace("_", " "), justify="left" if name == "learner" else "right", no_wrap=name == "learner"
        )
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int | float) else value for value in row.values()))
    Console(width=140).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write every result and the summary to this file")
    parser.add_argument("--only", choices=LEARNERS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--max-steps", type=int, default=100_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = measure([options.only] if options.only else list(LEARNERS), options.seeds, options.max_steps)
    rows = summary(results)
    show(rows)
    if options.json:
        options.json.write_text(json.dumps({"results": [asdict(r) for r in results], "summary": rows}, indent=1))


if __name__ == "__main__":
    main()

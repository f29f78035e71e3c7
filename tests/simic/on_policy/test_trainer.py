import json
from collections.abc import Callable, Iterator

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from esper.errors import LearnerError
from esper.nissa.metric_names import LEARNING_METRICS
from esper.simic.on_policy.collector import evaluate
from esper.simic.on_policy.early_stopping import State
from esper.simic.on_policy.trainer import Training
from esper.simic.reinforce.agent import ReinforceAgent
from esper.simic.reinforce.config import ReinforcePolicyConfig
from tests.simic.corridor import PATHS, Corridor


def make(validate: Callable[[ReinforceAgent], float] | None = None, seed: int = 0, env=None, **settings) -> Training:
    config = ReinforcePolicyConfig(**{"hidden": [16], "updates": 12, "learning_rate": 2e-2, **settings})
    env = env or Corridor(8, starts=(0, 1, 2))
    return Training(env, ReinforceAgent(6, "cpu", 3, PATHS, config, seed=seed), config, validate, seed=5)


def scripted(*scores: float) -> Callable[[ReinforceAgent], float]:
    script: Iterator[float] = iter(scores)
    return lambda learner: next(script)


def walked(learner: ReinforceAgent) -> float:
    return float(np.mean([episode.total_reward for episode in evaluate(Corridor(4), learner, 8, seed=3)]))


def finish(training: Training) -> list[dict[str, float]]:
    metrics = []
    while not training.done:
        metrics.append(training.step())
    return metrics


def kept(state: State) -> State:
    """What a checkpoint would bring back."""
    tensors, plain = state
    return {name: tensor.clone() for name, tensor in tensors.items()}, json.loads(json.dumps(plain))


def weights(training: Training) -> dict[str, Tensor]:
    learner = training.learner
    assert isinstance(learner, ReinforceAgent)
    return {name: value.clone() for name, value in learner.network.state_dict().items()}


def alike(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_it_ends_after_its_updates_and_counts_what_it_saw() -> None:
    training = make(rollout_steps=5)
    metrics = finish(training)
    assert training.update == training.total == len(metrics) == 12
    assert [m["update"] for m in metrics] == list(range(1, 13))
    assert [m["steps"] for m in metrics] == [40 * n for n in range(1, 13)]
    assert metrics[-1]["episodes"] == training.episodes > 0
    assert all(m[part] >= 0 for m in metrics for part in ("collect_s", "update_s", "validation_s"))
    assert "validation_return" not in metrics[-1]
    with pytest.raises(LearnerError, match="ended with update 12 of 12"):
        training.step()


def test_returns_are_those_of_the_episodes_that_ended() -> None:
    training = make(env=Corridor(8, one_way=range(5), starts=(0, 1, 2)))  # 4, 3 or 2 steps to the end
    first, second = training.step(), training.step()
    assert first["episodes"] == first["episodes_finished"] >= 8
    assert second["episodes"] == first["episodes"] + second["episodes_finished"]
    assert 2 <= first["length_mean"] <= 4
    assert first["return_mean"] == pytest.approx(1 - 0.05 * first["length_mean"])
    assert 0 < first["return_std"] < 0.05
    none = make(rollout_steps=1, env=Corridor(8)).step()
    assert none["episodes_finished"] == 0
    assert not {"return_mean", "return_std", "length_mean"} & none.keys()


def test_metrics_are_in_the_glossary() -> None:
    training = make(walked, validate_every=1)
    assert training.step().keys() - {"schema", "wall_s"} <= LEARNING_METRICS.keys()


def test_without_validation_it_keeps_what_it_became() -> None:
    training = make(updates=3, validate_every=1)
    finish(training)
    assert training.stopping.best is None


def test_it_validates_at_its_interval_and_at_the_end() -> None:
    training = make(walked, updates=8, validate_every=3)
    metrics = finish(training)
    assert [m["update"] for m in metrics if "validation_return" in m] == [3, 6, 8]
    assert metrics[7]["best_validation_return"] == max(metrics[n]["validation_return"] for n in (2, 5, 7))


def test_validating_changes_nothing() -> None:
    with_it, without = make(walked, validate_every=1), make()
    for _ in range(4):
        with_it.step()
        without.step()
    assert alike(weights(with_it), weights(without))


def test_it_stops_when_the_patience_is_used_up_and_ends_as_its_best() -> None:
    training = make(scripted(0.0, 2.0, 1.9, 1.8, 1.7), updates=40, validate_every=2, patience=3)
    seen = {}
    while not training.done:
        metrics = training.step()
        seen[training.update] = weights(training)
    assert training.update == 10
    assert metrics["best_validation_return"] == 2.0
    assert not alike(seen[4], seen[8])
    assert alike(weights(training), seen[4])


def test_gains_below_the_threshold_buy_no_patience() -> None:
    training = make(scripted(1.0, 1.01, 1.02), updates=40, validate_every=1, patience=2, min_gain=0.1)
    finish(training)
    assert training.update == 3
    assert training.stopping.best_update == 3


@pytest.mark.sampled(2)
@pytest.mark.parametrize("rollout_steps", [None, 5])
@pytest.mark.parametrize("network", ["mlp", "lstm"])
def test_resumed_it_ends_bit_for_bit_where_it_would_have(rollout_steps, network) -> None:
    settings = {
        "rollout_steps": rollout_steps,
        "network": network,
        "baseline_steps": 1,
        "validate_every": 3,
        "schedule": "warmup_cosine",
        "warmup_updates": 2,
    }
    straight, first, resumed = make(walked, **settings), make(walked, **settings), make(walked, seed=77, **settings)
    for _ in range(7):
        first.step()
    resumed.load_state(*kept(first.state()))
    assert resumed.update == 7
    whole, rest = finish(straight), finish(resumed)
    for before, after in zip(whole[7:], rest, strict=True):
        assert {k: v for k, v in before.items() if k[-2:] != "_s"} == {k: v for k, v in after.items() if k[-2:] != "_s"}
    ends, again = kept(straight.state()), kept(resumed.state())
    assert alike(ends[0], again[0])
    assert ends[1] == again[1]


def test_resumed_it_stops_when_it_would_have() -> None:
    settings = {"updates": 40, "validate_every": 1, "patience": 3}
    first = make(scripted(1.0, 2.0, 0.0, 0.0), **settings)
    for _ in range(4):
        first.step()
    best = {name.removeprefix("network."): tensor.clone() for name, tensor in first.stopping.best[0].items()}
    resumed = make(scripted(0.0), seed=1, **settings)
    resumed.load_state(*kept(first.state()))
    finish(resumed)
    assert resumed.update == 5
    assert all(torch.equal(value, best[name]) for name, value in weights(resumed).items())


def test_a_state_from_before_the_first_update() -> None:
    straight, resumed = make(), make(seed=1)
    resumed.load_state(*kept(make().state()))
    finish(straight)
    finish(resumed)
    assert alike(weights(straight), weights(resumed))


def test_who_has_learned_keeps_no_hosts_to_learn_on() -> None:
    training = make(updates=2)
    training.step()
    assert "env" in training.state()[1]
    finish(training)
    tensors, plain = kept(training.state())
    assert "env" not in plain and not [name for name in tensors if name.startswith(("env/", "collector/"))]
    again = make(updates=2)
    again.load_state(tensors, plain)
    assert again.done and alike(weights(again), weights(training))


def test_an_environment_without_a_state_begins_anew() -> None:
    def cartpole() -> Training:
        env = gym.make_vec("CartPole-v1", 4, "sync", vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP})
        config = ReinforcePolicyConfig(hidden=[8], updates=4, rollout_steps=20)
        return Training(env, ReinforceAgent(4, "cpu", 2, settings=config), config, seed=5)

    first, resumed = cartpole(), cartpole()
    first.step()
    begun = first._collector._observations
    resumed.load_state(*kept(first.state()))
    metrics = finish(resumed)
    assert [m["update"] for m in metrics] == [2, 3, 4]
    assert metrics[-1]["steps"] == 320
    assert begun is not None


def test_what_is_not_finite_stops_it_before_anything_is_learned() -> None:
    class Broken(Corridor):
        def step(self, actions):
            observations, rewards, *rest = super().step(actions)
            return observations, np.where(np.arange(len(rewards)) == 2, np.nan, rewards), *rest

    training = make(env=Broken(4))
    before = weights(training)
    with pytest.raises(LearnerError, match="reward of member 2 is nan"):
        training.step()
    assert alike(weights(training), before)
    assert training.update == 0

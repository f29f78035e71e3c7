import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from gymnasium.vector import AutoresetMode
from torch import Tensor

from esper.errors import ConfigError
from esper.simic.on_policy.advantages import discounted_returns, gae
from esper.simic.on_policy.collector import Collector
from esper.simic.reinforce.agent import ReinforceAgent
from esper.simic.reinforce.config import ReinforcePolicyConfig
from tests.simic.corridor import LEFT, PATHS, RIGHT, STAY, Corridor, legal, observation


def make(settings: dict | None = None, seed: int = 0, features: int = 6) -> ReinforceAgent:
    config = ReinforcePolicyConfig(**{"hidden": [32], "learning_rate": 2e-2, "updates": 30, **(settings or {})})
    return ReinforceAgent(features, "cpu", 3, PATHS, config, seed=seed)


def train(agent: ReinforceAgent, env, updates: int, steps: int | None = None) -> list[dict[str, float]]:
    collector = Collector(env, agent, seed=1)
    metrics = []
    for _ in range(updates):
        rollout = collector.collect(steps)
        returns = [episode.total_reward for episode in rollout.episodes]
        metrics.append(agent.update(rollout) | {"return": float(np.mean(returns))})
    return metrics


def parameters(agent: ReinforceAgent, of_critic: bool) -> dict[str, torch.nn.Parameter]:
    named = agent.network.named_parameters()
    return {name: value for name, value in named if name.startswith(("critic", "value")) is of_critic}


def gradient(agent: ReinforceAgent, of_critic: bool = False) -> Tensor:
    return torch.cat([value.grad.flatten() for value in parameters(agent, of_critic).values()])


# ---- the estimate itself


def exact_gradient(agent: ReinforceAgent, env: Corridor) -> Tensor:
    """Of the expected return, with gamma 1: every path from every start."""

    def expected(cell: int, time: int) -> Tensor:
        if cell == env.length - 1 or time == env.horizon:
            return torch.zeros(())
        mask = legal(np.array([cell]), env.one_way)
        seen = torch.from_numpy(observation(np.array([cell]), np.array([time]), env.length, env.horizon))
        log_probs, _, _ = agent.evaluate_actions(agent.normalizer(seen), torch.from_numpy(mask))
        total = torch.zeros(())
        for action in np.flatnonzero(mask[0]).tolist():
            after = cell + (action == RIGHT) - (action == LEFT)
            reward = (after == env.length - 1) - 0.05 * (action != STAY)
            total = total + log_probs[0, action].exp() * (reward + expected(after, time + 1))
        return total

    agent.network.zero_grad()
    sum(expected(int(start), 0) for start in env.starts).backward()
    return gradient(agent)


@pytest.mark.parametrize("gae_lambda", [1.0, 0.9])
def test_its_gradient_is_that_of_the_expected_return(gae_lambda) -> None:
    env = Corridor(2_000, length=4, horizon=2, starts=(0, 1, 2), one_way=(1,), is_final=True)
    agent = make({"gamma": 1.0, "gae_lambda": gae_lambda, "entropy_coefficient": 0.0, "baseline_steps": 20}, features=5)
    with torch.no_grad():  # a policy that prefers something
        for value in agent.network.policy_head.parameters():
            value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(3)))
    collector = Collector(env, agent, seed=0)
    untouched = {name: value.detach().clone() for name, value in parameters(agent, of_critic=False).items()}
    for _ in range(6 if gae_lambda < 1 else 1):  # below 1 the estimate leans on the baseline: let that learn first
        agent.update(collector.collect(2))
        for name, value in parameters(agent, of_critic=False).items():
            value.data.copy_(untouched[name])
    agent.settings.baseline_steps = 1
    exact = exact_gradient(agent, env)
    rollout = collector.collect(2)
    agent.update(rollout)
    estimate = -gradient(agent)
    assert float(torch.cosine_similarity(estimate, exact, dim=0)) > 0.995


def test_with_lambda_one_it_is_plain_returns_less_the_baseline() -> None:
    rollout = Collector(Corridor(16, starts=(0, 3)), make(), seed=0).collect(20)
    ends = rollout.next_values, rollout.terminated, rollout.truncated, 0.97
    advantages = gae(rollout.rewards, rollout.values, *ends, 1.0)
    torch.testing.assert_close(advantages, discounted_returns(rollout.rewards, *ends) - rollout.values)


# ---- the baseline


@pytest.mark.slow
def test_the_baseline_trains() -> None:
    metrics = train(make(), Corridor(64), 25)
    early, late = metrics[:3], metrics[-3:]
    assert np.mean([m["explained_variance"] for m in early]) < 0.5
    assert np.mean([m["explained_variance"] for m in late]) > 0.8
    assert max(m["value_loss"] for m in late) < 0.3 * min(m["value_loss"] for m in early)


def test_more_steps_of_the_baseline_leave_the_policy_at_one() -> None:
    one, many = make({"baseline_steps": 1}), make({"baseline_steps": 20})
    rollout = Collector(Corridor(32), one, seed=0).collect(12)
    before = {name: value.detach().clone() for name, value in one.network.named_parameters()}
    one.update(rollout)
    many.update(rollout)
    for name, value in parameters(one, of_critic=False).items():
        assert torch.equal(value, many.network.get_parameter(name)) and not torch.equal(value, before[name])
    ends = rollout.next_values, rollout.terminated, rollout.truncated, one.settings.gamma
    returns = discounted_returns(rollout.rewards, *ends)
    values = (agent.network.sequence(rollout.observations)[1] for agent in (one, many))  # as they were learned from
    errors = [float((value.detach() - returns).square().mean()) for value in values]
    assert errors[1] < 0.95 * errors[0]


# ---- masks


def test_forced_decisions_teach_the_baseline_and_nothing_else() -> None:
    agent = make()
    before = {name: value.detach().clone() for name, value in agent.network.named_parameters()}
    (metrics,) = train(agent, Corridor(8, one_way=range(5)), 1)
    assert metrics["forced_share"] == 1.0
    assert metrics["policy_loss"] == metrics["entropy"] == 0.0
    assert all(torch.equal(value, before[name]) for name, value in parameters(agent, of_critic=False).items())
    assert any(not torch.equal(value, before[name]) for name, value in parameters(agent, of_critic=True).items())


def test_forced_decisions_do_not_move_the_advantages_of_free_ones() -> None:
    env = Corridor(64, length=4, starts=(0, 1), one_way=(1,))
    rollout = Collector(env, make(features=5), seed=0).collect(4)
    forced = rollout.masks.sum(-1) == 1
    assert 0 < int(forced.sum()) < forced.numel()
    losses = []
    for shift in (0.0, 100.0):
        agent = make({"gae_lambda": 0.0}, features=5)
        changed = replace(rollout, values=rollout.values + shift * forced)
        losses.append(agent.update(changed)["policy_loss"])
    assert losses[0] == losses[1]


# ---- coefficients, rates, clipping


def test_the_entropy_coefficient_comes_down_to_its_floor_and_stays() -> None:
    agent = make({"updates": 20, "entropy_coefficient": 0.1, "final_entropy_coefficient": 0.01, "entropy_decay": 0.5})
    coefficients = [metrics["entropy_coefficient"] for metrics in train(agent, Corridor(4), 22)]
    assert coefficients[:10] == pytest.approx(np.linspace(0.1, 0.01, 11)[:10])
    assert coefficients[10:] == pytest.approx([0.01] * 12)


@pytest.mark.slow
def test_entropy_is_rewarded() -> None:
    kept, lost = (
        train(make({"entropy_coefficient": c, "final_entropy_coefficient": c}), Corridor(32), 20)[-1]["entropy"]
        for c in (1.0, 0.0)
    )
    assert kept > lost + 0.1


@pytest.mark.parametrize(
    "schedule, rates",
    [
        ("constant", [1e-2] * 5),
        ("linear", [1e-2, 8e-3, 6e-3, 4e-3, 2e-3]),
        ("warmup_cosine", [5e-3, 1e-2, None, None, None]),
    ],
)
def test_learning_rates_follow_their_schedule(schedule, rates) -> None:
    agent = make(
        {
            "updates": 5,
            "schedule": schedule,
            "learning_rate": 1e-2,
            "final_learning_rate": 0.0,
            "warmup_updates": 1,
        }
    )
    for expected in rates:
        (metrics,) = train(agent, Corridor(4), 1)
        used = agent.optimizer.param_groups[0]["lr"]
        assert metrics["learning_rate"] == used
        assert expected is None or used == pytest.approx(expected)
    assert used <= rates[0]


def test_the_gradient_of_policy_and_baseline_together_is_clipped() -> None:
    agent = make({"max_gradient_norm": 0.01, "baseline_steps": 1})
    (metrics,) = train(agent, Corridor(32), 1)
    assert metrics["gradient_norm"] > 0.1
    both = torch.cat([gradient(agent, of_critic=False), gradient(agent, of_critic=True)])
    assert float(both.norm()) == pytest.approx(0.01, rel=1e-3)
    assert min(float(gradient(agent, of_critic=part).norm()) for part in (True, False)) > 0


# ---- learning


@pytest.mark.slow
def test_it_learns_to_walk() -> None:
    metrics = train(make(), Corridor(32), 30)
    assert metrics[0]["return"] < 0.5
    assert np.mean([m["return"] for m in metrics[-5:]]) > 0.75  # the best is 0.8
    assert all(math.isfinite(value) for m in metrics for value in m.values())


def test_it_learns_to_walk_with_a_memory() -> None:
    agent = make({"network": "lstm", "baseline_steps": 1, "learning_rate": 4e-2})
    assert np.mean([m["return"] for m in train(agent, Corridor(32), 30)[-5:]]) > 0.7


@pytest.mark.slow
def test_it_learns_in_any_vector_environment() -> None:
    env = gym.make_vec("CartPole-v1", 16, "sync", vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP})
    agent = ReinforceAgent(4, "cpu", 2, settings=ReinforcePolicyConfig(updates=30, hidden=[32]))
    metrics = train(agent, env, 15, steps=48)
    assert metrics[-1]["return"] > 2 * metrics[0]["return"]
    assert not any(name.startswith("entropy_") and name != "entropy_coefficient" for name in metrics[0])


def test_resumed_it_learns_the_same_bit_for_bit() -> None:
    straight, first = make(), make()
    train(straight, Corridor(8), 3)
    train(first, Corridor(8), 3)
    resumed = make(seed=9)
    tensors, plain = first.state()
    resumed.load_state({name: t.clone() for name, t in tensors.items()}, json.loads(json.dumps(plain)))
    train(straight, Corridor(8), 3)
    train(resumed, Corridor(8), 3)
    ends, again = straight.state()[0], resumed.state()[0]
    assert ends.keys() == again.keys()
    assert all(torch.equal(ends[name], again[name]) for name in ends)


# ---- settings


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"gae_lambda": 1.5}, "policy.gae_lambda=1.5"),
        ({"entropy_decay": -0.1}, "policy.entropy_decay=-0.1"),
        ({"baseline_steps": 0}, "policy.baseline_steps=0"),
        ({"network": "lstm"}, "policy.baseline_steps=10 with policy.network=lstm.*set policy.baseline_steps=1"),
        ({"min_gain": float("nan")}, "policy.min_gain=nan"),
        ({"updates": 40, "validate_every": 10, "patience": 3}, "policy.patience=3 .* never run out"),
    ],
)
def test_settings_that_cannot_work_name_the_key(settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        ReinforcePolicyConfig(**settings)


def test_patience_that_can_run_out_is_taken() -> None:
    assert ReinforcePolicyConfig(updates=41, validate_every=10, patience=3).patience == 3


def test_the_shipped_values_are_the_defaults() -> None:
    shipped = yaml.safe_load((Path(__file__).parents[3] / "conf/policy/reinforce.yaml").read_text())
    del shipped["defaults"]
    shipped["gamma"] = 1.0  # is the reward's
    assert shipped == asdict(ReinforcePolicyConfig())

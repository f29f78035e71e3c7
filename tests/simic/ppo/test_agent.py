import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from esper.errors import CheckpointError, ConfigError, LearnerError
from esper.leyline import ActionLayout, Operation
from esper.simic.on_policy.advantages import explained_variance, normalized
from esper.simic.on_policy.collector import Collector, evaluate
from esper.simic.on_policy.rollout import Rollout
from esper.simic.ppo.agent import PPOAgent
from esper.simic.ppo.config import PPOPolicyConfig
from tests.simic.small_envs import Counting, Recall, cartpole, vectorised

LAYOUT = ActionLayout(("early", "late"), ("norm", "conv_light"), ("sigmoid",))


def settings(**values: Any) -> PPOPolicyConfig:
    return PPOPolicyConfig(**{"hidden": [8, 8], "target_kl": None, "epochs": 1, "minibatches": 1} | values)


def counting_agent(seed: int = 0, **values: Any) -> PPOAgent:
    return PPOAgent(2, action_dim=3, settings=settings(**values), seed=seed)


def collector(agent: PPOAgent) -> Collector:
    return Collector(vectorised(Counting(5, ("truncated",)), Counting(3), Counting(4)), agent)


def second_rollout() -> tuple[PPOAgent, Rollout]:
    """What comes after the first, which has its own scales."""
    agent = counting_agent()
    going_on = collector(agent)
    agent.update(going_on.collect(6))
    return agent, going_on.collect(6)


def parameters(agent: PPOAgent) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in agent.network.parameters()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def two_step_rollout(agent: PPOAgent, rewards: Tensor, members: int) -> Rollout:
    """A choice of three, then one of three that is seen to follow it; the reward [3, 3] is for both."""
    start = torch.zeros(members, 4)
    masks = torch.ones(members, 3, dtype=torch.bool)
    first = agent.act(start.numpy(), masks.numpy())
    then = torch.nn.functional.one_hot(first.actions + 1, 4).float()
    second = agent.act(then.numpy(), masks.numpy())
    paid = rewards[first.actions, second.actions]
    ended = torch.tensor([[False], [True]]).expand(2, members)
    return Rollout(
        observations=torch.stack([start, then]),
        masks=masks.expand(2, -1, -1),
        actions=torch.stack([first.actions, second.actions]),
        log_probs=torch.stack([first.log_probs, second.log_probs]),
        rewards=torch.stack([torch.zeros(members), paid]),
        values=torch.stack([first.values, second.values]),
        next_values=torch.stack([second.values, torch.zeros(members)]),
        terminated=ended,
        truncated=torch.zeros_like(ended),
        starts=~ended,
    )


def test_the_policy_gradient_is_that_of_exact_enumeration() -> None:
    own = settings(gamma=1.0, gae_lambda=1.0, learning_rate=1e-8, value_coefficient=0.0, entropy_coefficient=0.0)
    agent = PPOAgent(4, action_dim=3, settings=own)
    rewards = torch.tensor([[1.0, 0.0, 2.0], [3.0, -1.0, 0.0], [0.0, 5.0, 0.5]])
    agent.update(two_step_rollout(agent, rewards, 20_000))
    observations = agent.normalizer(torch.cat([torch.zeros(1, 4), torch.eye(4)[1:]]))
    log_probs, _, _ = agent.evaluate_actions(observations, torch.ones(4, 3, dtype=torch.bool))
    expected_return = sum(
        (log_probs[0, a] + log_probs[1 + a, b]).exp() * rewards[a, b] for a, b in itertools.product(range(3), repeat=2)
    )
    policy = [*agent.network.actor.parameters(), *agent.network.policy_head.parameters()]
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(expected_return, policy)])  # type: ignore[arg-type]
    descent = torch.cat([parameter.grad.flatten() for parameter in policy])  # type: ignore[union-attr]
    assert torch.cosine_similarity(-descent, exact, dim=0) > 0.99


@pytest.mark.parametrize("network", ["mlp", "lstm"])
def test_the_first_ratio_is_one(network: str) -> None:
    agent = counting_agent(network=network)
    going_on = collector(agent)
    for _ in range(3):
        metrics = agent.update(going_on.collect(7))
        assert metrics["approx_kl"] == pytest.approx(0, abs=1e-7)
        assert metrics["clip_fraction"] == 0
        assert metrics["policy_loss"] == pytest.approx(0, abs=1e-6), "normalised advantages have no mean"


def test_an_lstm_replays_a_rollout_exactly() -> None:
    agent = counting_agent(network="lstm", learning_rate=1e-2, epochs=4)
    going_on = collector(agent)
    agent.update(going_on.collect(7))
    rollout = going_on.collect(9)
    assert rollout.starts[1:].any() and rollout.memory is not None and rollout.memory.any()
    seen = agent.normalizer(rollout.observations)
    log_probs, _, values = agent.evaluate_actions(seen, rollout.masks, rollout.starts, rollout.memory)
    taken = log_probs.gather(-1, rollout.actions.unsqueeze(-1)).squeeze(-1)
    assert torch.equal(taken, rollout.log_probs) and torch.equal(values, rollout.values)


def test_the_update_stops_when_the_policy_has_moved_too_far() -> None:
    free, held = (
        counting_agent(epochs=10, learning_rate=0.05),
        counting_agent(epochs=10, learning_rate=0.05, target_kl=0.01),
    )
    assert free.update(collector(free).collect(40))["epochs_run"] == 10
    metrics = held.update(collector(held).collect(40))
    assert 1 <= metrics["epochs_run"] < 10 and metrics["approx_kl"] > 0


@pytest.mark.parametrize("network", ["mlp", "lstm"])
def test_then_values_learn_alone_unless_they_share_a_memory(network: str) -> None:
    short, long = (
        counting_agent(network=network, learning_rate=0.05, target_kl=0.01, epochs=epochs) for epochs in (4, 10)
    )
    ran = [agent.update(collector(agent).collect(40))["epochs_run"] for agent in (short, long)]
    assert ran[0] == ran[1] < 4

    def differ(part: str) -> bool:
        pairs = zip(*(getattr(agent.network, part).parameters() for agent in (short, long)), strict=True)
        return not all(torch.equal(a, b) for a, b in pairs)

    assert not differ("actor") and not differ("policy_head")
    assert differ("value_head") == (network == "mlp")


@pytest.mark.parametrize(("shift", "advantage", "acts"), [(1.0, 1.0, True), (1.0, -1.0, False), (-1.0, -1.0, True)])
def test_what_goes_beyond_the_clip_teaches_no_more(shift: float, advantage: float, acts: bool) -> None:
    agent = counting_agent(value_coefficient=0.0)
    rollout = collector(agent).collect(6)
    moved = replace(rollout, log_probs=rollout.log_probs - shift)
    shape = moved.rewards.shape
    data = agent._prepare(moved, torch.full(shape, advantage), torch.zeros(shape), torch.ones(shape, dtype=torch.bool))
    data["weights"] = data["free"] / data["free"].numel()
    loss, parts = agent._loss(data, torch.arange(len(data["free"])), 0.0)
    loss.backward()
    gradient = agent.network.policy_head.bias.grad
    assert gradient is not None and (not gradient.any()) == acts
    assert parts["clip_fraction"] == 1
    limit = 1.2 if shift > 0 else 0.8
    assert parts["policy_loss"].item() == pytest.approx(-advantage * (limit if acts else math.exp(shift)), rel=1e-5)


def test_forced_decisions_teach_values_only() -> None:
    agent, rollout = second_rollout()
    only = torch.zeros_like(rollout.masks).scatter_(-1, rollout.actions.unsqueeze(-1), True)
    forced = replace(rollout, masks=only, log_probs=torch.zeros_like(rollout.log_probs))
    metrics = agent.update(forced)
    assert metrics["forced_share"] == 1 and metrics["policy_loss"] == metrics["entropy"] == 0
    assert not any(parameter.grad.any() for parameter in agent.network.actor.parameters())  # type: ignore[union-attr]
    assert all(parameter.grad.any() for parameter in agent.network.critic.parameters())  # type: ignore[union-attr]


def test_advantages_are_normalised_over_free_decisions() -> None:
    advantages = torch.tensor([[1.0, 100.0], [3.0, -7.0]])
    found = normalized(advantages, torch.tensor([[True, False], [True, False]]))
    assert found[:, 0].tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5])
    assert not normalized(advantages, torch.zeros(2, 2, dtype=torch.bool)).any()


def test_explained_variance() -> None:
    returns = torch.tensor([1.0, 2.0, 3.0])
    assert explained_variance(returns, returns) == 1
    assert explained_variance(torch.zeros(3), returns) == 0
    assert explained_variance(returns, torch.ones(3)) == 0


def test_values_may_be_kept_from_jumping() -> None:
    agent = counting_agent(value_clip=0.1)
    before, returns = torch.zeros(1), torch.tensor([10.0])
    assert agent._value_errors(torch.tensor([5.0]), before, returns).item() == pytest.approx(9.9**2)
    assert counting_agent()._value_errors(torch.tensor([5.0]), before, returns).item() == 25


@pytest.mark.parametrize(("offset", "spread"), [(0.0, 1.0), (0.0, 64.0), (1000.0, 0.1), (-0.3, 1e-2)])
def test_values_are_of_the_rewards_size_from_the_first_update_on(offset: float, spread: float) -> None:
    def course(offset: float, spread: float) -> list[dict[str, float]]:
        agent = counting_agent(epochs=2, minibatches=2, learning_rate=1e-2)
        going_on, seen = Collector(vectorised(*(Counting(4) for _ in range(8))), agent, seed=0), []
        for _ in range(3):
            rollout = going_on.collect()
            rewards = rollout.terminated * (offset + spread * (rollout.actions + rollout.observations[..., 0]))
            seen.append(agent.update(replace(rollout, rewards=rewards)))
        return seen

    found = course(offset, spread)
    assert found[0]["value_loss"] < 1.5 and found[0]["gradient_norm"] < 5 and abs(found[0]["explained_variance"]) < 0.01
    if not offset:
        plain = course(0.0, 1.0)
        assert [one["value_loss"] for one in found] == pytest.approx([one["value_loss"] for one in plain], rel=1e-3)


def test_the_first_rollout_is_seen_on_the_scale_of_the_later_ones() -> None:
    agent = counting_agent(learning_rate=1e-8)
    rollout = collector(agent).collect(20)
    agent.update(rollout)
    assert agent.normalizer.count == rollout.actions.numel()
    found = agent.normalizer(rollout.observations)
    torch.testing.assert_close(agent.normalizer.mean, rollout.observations.double().mean((0, 1)))
    assert found.std() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("name", ["rewards", "next_values"])
def test_what_is_not_finite_is_named_and_teaches_nothing(name: str) -> None:
    agent, rollout = second_rollout()
    values = getattr(rollout, name).clone()
    values[4, 1] = math.nan
    before = parameters(agent)
    with pytest.raises(LearnerError, match="worth nan to member 1"):
        agent.update(replace(rollout, **{name: values}))
    assert same(before, parameters(agent)) and agent.updates_done == 1


def test_a_loss_that_is_not_finite_is_named() -> None:
    agent, rollout = second_rollout()
    with pytest.raises(LearnerError, match=r"loss of update 2 is nan .policy_loss nan, value_loss [0-9]"):
        agent.update(replace(rollout, log_probs=rollout.log_probs * math.nan))
    agent.network.policy_head.weight.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(LearnerError, match="gradient of update 2 has norm nan"):
        agent.update(rollout)
    assert all(parameter.isfinite().all() for parameter in agent.network.parameters())


def test_metrics_of_growth_have_their_steps_names() -> None:
    agent = PPOAgent.for_growth([f"f{i}" for i in range(6)], LAYOUT, settings(network="lstm"))
    masks = torch.zeros(4, 3, len(LAYOUT), dtype=torch.bool)
    masks[..., :3] = True
    shape = (4, 3)
    zeros, ended = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
    rollout = Rollout(
        observations=torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(0)),
        masks=masks,
        actions=torch.ones(shape, dtype=torch.int64),
        log_probs=zeros - 1,
        rewards=zeros + 1,
        values=zeros,
        next_values=zeros,
        terminated=ended,
        truncated=ended,
        starts=ended,
        memory=agent.first_memory(3),
    )
    metrics = agent.update(rollout)
    by_level = [metrics[f"entropy_{level}"] for level in ("operation", "slot", "blueprint", "blend")]
    assert sum(by_level) == pytest.approx(metrics["entropy"]) and by_level[0] > 0 and by_level[2] > 0
    assert set(metrics) == {
        *("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction", "explained_variance", "gradient_norm"),
        *("entropy_operation", "entropy_slot", "entropy_blueprint", "entropy_blend"),
        *("learning_rate", "entropy_coefficient", "forced_share", "epochs_run"),
    }


def test_an_untrained_policy_follows_the_prior() -> None:
    prior = {"wait": 6.0, "germinate": 2.0, "advance": 1.0, "cull": 1.0}
    agent = PPOAgent.for_growth(["a", "b"], LAYOUT, settings(operation_prior=prior))
    everything = torch.ones(1, len(LAYOUT), dtype=torch.bool)
    chances = agent.evaluate_actions(torch.zeros(1, 2), everything)[0].exp()[0]
    assert chances[0].item() == pytest.approx(0.6, abs=0.01)
    planting = [action.operation is Operation.GERMINATE for action in LAYOUT.actions]
    assert chances[torch.tensor(planting)].sum().item() == pytest.approx(0.2, abs=0.01)


def test_rates_and_bonus_move_over_the_updates() -> None:
    agent = counting_agent(
        updates=4, learning_rate=0.1, final_learning_rate=0.0, entropy_coefficient=0.4, final_entropy_coefficient=0.2
    )
    going_on = collector(agent)
    seen = [agent.update(going_on.collect(5)) for _ in range(4)]
    assert [metrics["learning_rate"] for metrics in seen] == pytest.approx([0.1, 0.075, 0.05, 0.025])
    assert [metrics["entropy_coefficient"] for metrics in seen] == pytest.approx([0.4, 0.35, 0.3, 0.25])


@pytest.mark.parametrize("network", ["mlp", "lstm"])
@pytest.mark.parametrize("name", ["policy", "policy.pt"])
def test_what_was_saved_goes_on_bit_for_bit(network: str, name: str, tmp_path: Path) -> None:
    agent = counting_agent(network=network, epochs=3, minibatches=2, learning_rate=1e-2)
    going_on = collector(agent)
    agent.update(going_on.collect(7))
    rollout = going_on.collect(7)
    agent.save(tmp_path / name, metadata={"note": "kept"})
    loaded, other = PPOAgent.load(tmp_path / name), counting_agent(9, network=network, epochs=3, minibatches=2)
    assert other.load(tmp_path / name) is other
    assert loaded.metadata == other.metadata == {"note": "kept"}
    assert loaded.settings == agent.settings and loaded.updates_done == other.updates_done == 1
    other.settings = agent.settings
    expected = agent.update(rollout)
    for copy in (loaded, other):
        assert copy.update(rollout) == expected
        assert same(parameters(copy), parameters(agent))
        assert torch.equal(copy.normalizer.mean, agent.normalizer.mean)
        memory = agent.first_memory(3)
        seen, masks = rollout.observations[0].numpy(), rollout.masks[0].numpy()
        actions = [one.act(seen, masks, memory=memory).actions for one in (copy, PPOAgent.load(tmp_path / name))]
        assert actions[0].shape == actions[1].shape


def test_what_a_policy_was_trained_for_is_compared(tmp_path: Path) -> None:
    features = [f"seed.{name}" for name in ("alpha", "stage", "age")]
    agent = PPOAgent.for_growth(features, LAYOUT, settings())
    agent.save(tmp_path / "policy")
    before = parameters(other := PPOAgent.for_growth([*features[1:], "host.depth"], LAYOUT, settings()))
    with pytest.raises(LearnerError, match=r"other features \(not here: seed.alpha; not known to it: host.depth\)"):
        other.load(tmp_path / "policy")
    assert same(before, parameters(other))
    with pytest.raises(LearnerError, match="in another order"):
        PPOAgent.for_growth(features[::-1], LAYOUT, settings()).load(tmp_path / "policy")
    wider = ActionLayout(LAYOUT.slots, (*LAYOUT.blueprints, "lora"), LAYOUT.blends)
    with pytest.raises(
        LearnerError, match=r"other actions .*not known to it: GERMINATE early lora sigmoid, GERMINATE late"
    ):
        PPOAgent.for_growth(features, wider, settings()).load(tmp_path / "policy")
    with pytest.raises(LearnerError, match=r"policy\.network=mlp, and policy.network=lstm is asked for"):
        PPOAgent.for_growth(features, LAYOUT, settings(network="lstm")).load(tmp_path / "policy")
    with pytest.raises(CheckpointError):
        PPOAgent.load(tmp_path / "nothing")


def test_a_policy_alone_can_be_taken_over() -> None:
    taught = counting_agent(learning_rate=1e-2)
    taught.update(collector(taught).collect(9))
    fresh = counting_agent(seed=4)
    fresh.load_state(*taught.state(), policy_only=True)
    assert same(parameters(fresh), parameters(taught)) and torch.equal(fresh.normalizer.mean, taught.normalizer.mean)
    assert fresh.updates_done == 0
    assert all(not state["exp_avg"].any() for state in fresh.optimizer.state.values())


def learned(agent: PPOAgent, env: Any, steps: int, updates: int) -> PPOAgent:
    going_on = Collector(env, agent, seed=0)
    for _ in range(updates):
        agent.update(going_on.collect(steps))
    return agent


@pytest.mark.slow
def test_it_learns_cartpole() -> None:
    own = settings(hidden=[64, 64], epochs=10, minibatches=2, gamma=0.98, gae_lambda=0.8, entropy_coefficient=0.0)
    agent = PPOAgent(4, action_dim=2, settings=own)
    going_on, recent = Collector(cartpole(8), agent, seed=0), [0.0]
    for _ in range(own.updates):
        rollout = going_on.collect(32)
        agent.update(rollout)
        recent = [*recent, *(episode.total_reward for episode in rollout.episodes)][-10:]
        if sum(recent) > 10 * 150:
            break
    assert sum(recent) > 10 * 150, "chance makes about 22"


@pytest.mark.slow
def test_only_a_memory_recalls_the_sign() -> None:
    means = {}
    for network in ("mlp", "lstm"):
        own = settings(network=network, hidden=[16], learning_rate=1e-2, updates=25, epochs=4, minibatches=2)
        agent = learned(PPOAgent(2, action_dim=2, settings=own), vectorised(*(Recall() for _ in range(16))), 12, 25)
        episodes = evaluate(vectorised(*(Recall() for _ in range(16))), agent, 64, seed=7)
        means[network] = sum(episode.total_reward for episode in episodes) / len(episodes)
    assert means["lstm"] > 0.95 > 0.75 > means["mlp"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"clip": 0.0}, "policy.clip=0.0"),
        ({"network": "gru"}, "policy.network=gru: expected one of mlp, lstm"),
        ({"hidden": []}, "policy.hidden"),
        ({"operation_prior": {"wait": 1.0}}, "wait, germinate, advance, cull"),
        (
            {"operation_prior": {"wait": 1.0, "germinate": 0.0, "advance": 1.0, "cull": 1.0}},
            "operation_prior.germinate",
        ),
        ({"blends": ["cubic"]}, "policy.blends=cubic"),
        ({"patience": 3}, "set policy.validate_every"),
        ({"patience": 9, "validate_every": 10, "updates": 60}, "never run out"),
        ({"schedule": "step"}, "policy.schedule=step"),
        ({"gamma": math.nan}, "policy.gamma=nan"),
    ],
)
def test_settings_are_checked(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        PPOPolicyConfig(**values)

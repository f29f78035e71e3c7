"""Ranks that learn together become what one process becomes that learns from all of it."""

from typing import Any

import pytest
import torch

from esper.errors import LearnerError
from esper.leyline.ranks import ALONE, Ranks
from esper.simic.on_policy.base import PolicyLearner
from esper.simic.on_policy.config import LearnedPolicyConfig
from esper.simic.on_policy.trainer import Training
from esper.simic.ppo.agent import PPOAgent
from esper.simic.ppo.config import PPOPolicyConfig
from esper.simic.reinforce.agent import ReinforceAgent
from esper.simic.reinforce.config import ReinforcePolicyConfig
from tests.ranks import as_ranks
from tests.simic.corridor import PATHS, Corridor

AGENTS: dict[str, tuple[type[PolicyLearner], type[LearnedPolicyConfig]]] = {
    "ppo": (PPOAgent, PPOPolicyConfig),
    "reinforce": (ReinforceAgent, ReinforcePolicyConfig),
}
UPDATES = 3


CASES: list[tuple[str, int, dict[str, Any]]] = [
    ("ppo", 8, {"rollout_steps": 9, "epochs": 2, "target_kl": None}),
    ("ppo", 8, {"rollout_steps": 9, "epochs": 2, "target_kl": 1e-3, "value_clip": 0.1}),
    ("ppo", 7, {"network": "lstm", "rollout_steps": 9, "epochs": 2}),
    ("ppo", 2, {"rollout_steps": 3, "epochs": 2}),  # minibatches of one or two decisions: some ranks have none
    ("reinforce", 7, {"rollout_steps": 9, "baseline_steps": 3}),
    ("reinforce", 8, {"rollout_steps": 9, "network": "lstm", "baseline_steps": 1}),
]


def learner_of(ranks: Ranks, name: str, settings: dict[str, Any]) -> PolicyLearner:
    agent, kind = AGENTS[name]
    own = kind(**{"hidden": [8], "updates": UPDATES, "validate_every": 0, "learning_rate": 1e-2} | settings)
    return agent(6, "cpu", 3, PATHS, own, ranks=ranks)


def learn(ranks: Ranks, name: str, members: int, settings: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """What a learner is in the end, and what it reported, in float64."""
    torch.set_default_dtype(torch.float64)
    try:
        learner = learner_of(ranks, name, settings)
        env = Corridor(members, starts=(0, 1, 2), one_way=(2,))
        training = Training(env, learner, learner.settings, seed=5)
        reported = [training.step() for _ in range(UPDATES)]
        return {name: tensor.numpy() for name, tensor in learner.state()[0].items()}, reported
    finally:
        torch.set_default_dtype(torch.float32)


def learn_all(ranks: Ranks) -> list[Any]:
    return [learn(ranks, *case) for case in CASES]


def same(one: Any, other: Any) -> bool:
    return one == pytest.approx(other, rel=1e-9, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_learn_what_one_process_learns(tmp_path, world: int) -> None:
    alone = learn_all(ALONE)
    assert alone[1][1][0]["epochs_run"] < alone[0][1][0]["epochs_run"], "divergence stops this one"
    for found in as_ranks(world, tmp_path, learn_all):
        for case, (state, reported), (expected, told) in zip(CASES, found, alone, strict=True):
            assert state.keys() == expected.keys()
            assert all(state[name].dtype == expected[name].dtype for name in expected)
            assert all(same(state[name], expected[name]) for name in expected), case
            for now, then in zip(reported, told, strict=True):
                assert now.keys() == then.keys()
                assert all(same(now[name], then[name]) for name in then if not name.endswith("_s")), case


def stumble(ranks: Ranks) -> str:
    """A loss that is not finite in the share of the last rank alone."""
    learner = learner_of(ranks, "ppo", {})
    weight = next(learner.network.parameters())
    before = weight.detach().clone()
    with pytest.raises(LearnerError) as raised:
        learner.optimizer_step(weight.sum() * (float("nan") if ranks.rank else 1.0), value_loss=torch.tensor(2.0))
    assert torch.equal(weight, before)
    return str(raised.value)


@pytest.mark.slow
def test_what_is_not_finite_on_one_rank_is_refused_by_all(tmp_path) -> None:
    one, other = as_ranks(2, tmp_path, stumble)
    assert one == other and "is nan (value_loss 2)" in one

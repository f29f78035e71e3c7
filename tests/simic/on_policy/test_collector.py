from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from esper.errors import LearnerError
from esper.simic.on_policy.base import PolicyLearner
from esper.simic.on_policy.collector import Collector, evaluate
from esper.simic.ppo.agent import PPOAgent
from esper.simic.ppo.config import PPOPolicyConfig
from tests.simic.small_envs import Counting, cartpole, vectorised

FIELDS = ("observations", "masks", "actions", "log_probs", "rewards", "values", "next_values", "starts")


def agent(network: str = "mlp", seed: int = 0, features: int = 2, actions: int = 3, bootstrap: bool = True) -> PPOAgent:
    settings = PPOPolicyConfig(network=network, hidden=[8, 8], bootstrap_truncated=bootstrap)
    return PPOAgent(features, action_dim=actions, settings=settings, seed=seed)


def worth(learner: PolicyLearner, observations: torch.Tensor) -> torch.Tensor:
    return learner.values(observations.numpy())


def test_members_go_on_where_the_last_rollout_ended() -> None:
    collector = Collector(vectorised(Counting(3), Counting(5)), agent())
    first, second = collector.collect(4), collector.collect(3)
    seen = torch.cat([first.observations, second.observations])[..., 0]
    assert seen.T.tolist() == [[0, 1, 2, 0, 1, 2, 0], [0, 1, 2, 3, 4, 0, 1]]
    starts = torch.cat([first.starts, second.starts])
    assert torch.equal(starts, seen == 0)
    assert first.terminated.T.tolist() == [[False, False, True, False], [False] * 4]
    assert torch.equal(first.masks, torch.arange(3) <= first.observations[..., :1])
    assert first.actions.shape == first.rewards.shape == (4, 2) and first.rewards.dtype == torch.float32
    assert torch.equal(first.rewards, 10 ** first.observations[..., 0] + first.actions)


def test_what_follows_each_step() -> None:
    """By hand: the value of the next observation; of the final one, not the reset's, where the time was up; 0 at an
    end."""
    learner = agent()
    collector = Collector(vectorised(Counting(3, ("truncated",)), Counting(3)), learner)
    rollout = collector.collect(5)
    assert rollout.truncated.T.tolist() == [[False, False, True, False, False], [False] * 5]
    after = rollout.observations + 1
    expected = worth(learner, after.flatten(0, 1)).view(5, 2)
    expected[2, 1] = 0
    torch.testing.assert_close(rollout.next_values, expected)
    torch.testing.assert_close(rollout.values, worth(learner, rollout.observations.flatten(0, 1)).view(5, 2))


def test_a_time_limit_that_is_part_of_the_task_ends_it() -> None:
    learner = agent(bootstrap=False)
    learner.network.rescale_values(5.0, 1.0)
    learner.network.value_head.bias.data += 5.0  # so that nothing is worth 0 by chance
    rollout = Collector(vectorised(Counting(2, ("truncated",))), learner).collect(3)
    assert (rollout.next_values == 0).flatten().tolist() == [False, True, False]
    assert rollout.truncated.any() and not rollout.terminated.any()


def test_with_a_memory_too() -> None:
    learner = agent("lstm")
    collector = Collector(vectorised(Counting(2, ("truncated",))), learner)
    rollout = collector.collect(3)
    observations, memory = rollout.observations.numpy(), learner.first_memory(1)
    expected = []
    for count in (0, 1):
        memory = learner.act(observations[count], rollout.masks[count].numpy(), memory=memory).memory
        expected.append(learner.values(np.full((1, 2), count + 1, np.float32), memory))
    fresh = learner.act(observations[2], rollout.masks[2].numpy(), memory=learner.first_memory(1)).memory
    expected.append(learner.values(np.full((1, 2), 1, np.float32), fresh))
    torch.testing.assert_close(rollout.next_values, torch.stack(expected))
    assert rollout.memory is not None and not rollout.memory.any()
    going_on = Collector(vectorised(Counting(5)), learner)
    assert going_on.collect(2).memory is not None and going_on.collect(1).memory.any()  # type: ignore[union-attr]


def test_episodes_as_gymnasium_counts_them() -> None:
    env = RecordEpisodeStatistics(vectorised(Counting(2), Counting(3, ("truncated", "terminated"))))
    kept = []

    class Watch(RecordEpisodeStatistics):
        def step(self, actions):
            result = super().step(actions)
            info = result[-1]
            if "episode" in info:
                ended = np.flatnonzero(info["_episode"])
                kept.extend((int(m), float(info["episode"]["r"][m]), int(info["episode"]["l"][m])) for m in ended)
            return result

    collector = Collector(Watch(env.env), agent())
    episodes = [episode for _ in range(4) for episode in collector.collect(3).episodes]
    assert [(e.member, pytest.approx(e.total_reward), e.length) for e in episodes] == kept
    assert [e.length for e in episodes if e.member == 0] == [2] * 6


def test_no_steps_given_means_an_episode_of_everyone() -> None:
    collector = Collector(vectorised(Counting(3), Counting(5)), agent())
    assert len(collector.collect().rewards) == 5
    assert len(collector.collect().rewards) == 5, "the first is one step into its second episode"


def test_forbidden_actions_are_never_sent() -> None:
    members = [Counting(4), Counting(2)]
    Collector(vectorised(*members), agent()).collect(200)
    assert [member.forbidden_taken for member in members] == [0, 0]
    unmasked = Collector(vectorised(Counting(4, masked=False)), agent()).collect(30)
    assert unmasked.masks.all()


def test_masks_of_an_environment_that_has_the_method() -> None:
    env = vectorised(Counting(4, masked=False))
    env.action_masks = lambda: np.array([[False, False, True]])  # type: ignore[attr-defined]
    assert (Collector(env, agent()).collect(5).actions == 2).all()
    env.action_masks = lambda: np.zeros((1, 3), bool)  # type: ignore[attr-defined]
    with pytest.raises(LearnerError, match="without a legal action"):
        Collector(env, agent()).collect(5)


def test_a_reward_that_is_not_finite_names_member_and_step() -> None:
    bad = Counting(9)
    bad.bad_step = 4
    with pytest.raises(LearnerError, match="reward of member 1 is nan at step 4"):
        Collector(vectorised(Counting(9), bad), agent()).collect(9)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_other_autoreset_modes_are_refused(mode: AutoresetMode) -> None:
    with pytest.raises(LearnerError, match=r"expected SameStep\. Make it with"):
        Collector(vectorised(Counting(3), mode=mode), agent())


def test_spaces_must_fit_the_policy() -> None:
    with pytest.raises(LearnerError, match="2 features and 3 actions; the policy is for 4 and 3"):
        Collector(vectorised(Counting(3)), agent(features=4))


@pytest.mark.parametrize("network", ["mlp", "lstm"])
def test_its_state_is_all_there_is_between_rollouts(network: str) -> None:
    straight = Collector(vectorised(Counting(3), Counting(5)), agent(network))
    straight.collect(4)
    state = {name: value.clone() for name, value in straight.state().items()}
    policy = straight.learner.state()
    policy = {name: value.clone() for name, value in policy[0].items()}, policy[1]
    env = straight.env.unwrapped
    counts = [member.count for member in env.envs]  # type: ignore[attr-defined]
    expected = straight.collect(6)
    members = [Counting(3), Counting(5)]
    resumed = Collector(vectorised(*members), agent(network, seed=5))
    resumed.env.reset()
    for member, count in zip(members, counts, strict=True):
        member.count = count
    resumed.load_state(state)
    resumed.learner.load_state(*policy)
    found = resumed.collect(6)
    for name in FIELDS:
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert found.episodes == expected.episodes
    assert Collector(vectorised(Counting(3)), agent()).state() == {}


def test_evaluation_counts_everyone_alike_and_leaves_no_trace() -> None:
    learner = agent(features=4, actions=2)
    generator = learner.generators["actions"].get_state()
    env = cartpole(4)
    first = evaluate(env, learner, 10, seed=3)
    assert sorted(episode.member for episode in first) == sorted([0, 1, 2, 3] * 3)
    assert all(episode.total_reward == episode.length for episode in first)
    assert evaluate(env, learner, 10, seed=3) == first
    assert evaluate(env, learner, 10, seed=3, deterministic=False) == evaluate(
        env, learner, 10, seed=3, deterministic=False
    )
    assert torch.equal(learner.generators["actions"].get_state(), generator)


def test_any_learner_will_do() -> None:
    """Nothing but the protocol is asked of it."""
    decision = SimpleNamespace(
        actions=torch.zeros(1, dtype=torch.int64), log_probs=torch.zeros(1), values=torch.ones(1), memory=None
    )
    stub = SimpleNamespace(
        state_dim=2,
        action_dim=3,
        bootstrap_truncated=True,
        first_memory=lambda members: None,
        act=lambda *args: decision,
        values=lambda observations, memory=None: torch.ones(len(observations)),
    )
    rollout = Collector(vectorised(Counting(3)), stub).collect(7)  # type: ignore[arg-type]
    assert rollout.next_values.flatten().tolist() == [1, 1, 0, 1, 1, 0, 1]

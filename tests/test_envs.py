"""Growth under the names that Gymnasium and those who build on it know."""

import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from esper.engine.environment import GrowthVectorEnv, episode_seed
from esper.envs import make_growth_env
from esper.errors import ConfigError, EngineError

NAME = "esper.envs:esper/Growth-v0"
TINY = ["task.distortion=none", "host.channels=[2,2,2]", "epochs=3", "blueprint.names=[norm,conv_light]"]
TINY += ["engine=sequential", "engine.threads=1", "engine.memory_format=contiguous"]  # nothing is left to measure


def make(**settings) -> gymnasium.Env:
    return gymnasium.make(NAME, overrides=TINY, **settings)


def make_vec(members: int, **settings) -> gymnasium.vector.VectorEnv:
    return gymnasium.make_vec(NAME, num_envs=members, overrides=TINY, **settings)


@pytest.mark.slow
def test_gymnasiums_checker_has_nothing_to_say():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make().unwrapped)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is different from the unwrapped version")
        check_env(make())


@pytest.mark.slow
def test_stable_baselines3s_checker_has_nothing_to_say():
    from stable_baselines3.common.env_checker import check_env as check

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(make().unwrapped)


@pytest.mark.slow
@pytest.mark.parametrize("is_masked", [False, True])
def test_ppo_of_others_trains_on_it_unchanged(is_masked):
    from sb3_contrib import MaskablePPO
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            seen.extend(self.locals["infos"])
            return True

    seen: list[dict] = []
    algorithm = MaskablePPO if is_masked else PPO
    model = algorithm("MlpPolicy", make(), n_steps=12, batch_size=6, n_epochs=1, seed=3)
    model.learn(24, callback=Watch())
    ends = [info for info in seen if "episode" in info]  # of SB3's own Monitor
    assert len(seen) == 24 and len(ends) == 8
    assert all(info["episode"]["l"] == 3 and info["TimeLimit.truncated"] for info in ends)
    assert any(info["refused"] for info in seen) is not is_masked


def test_one_member_ends_where_it_ends_and_goes_on_to_the_next_episode():
    env = make()
    first, info = env.reset(seed=5)
    assert info["action_mask"].tolist() == env.unwrapped.action_masks().tolist()
    for _ in range(3):
        observation, reward, terminated, truncated, info = env.step(0)
    assert (terminated, truncated) == (False, True) and isinstance(reward, float)
    assert info["episode_seed"] == episode_seed(5, 0, 0) and info["refused"] == 0 and "episode" not in info
    names = env.unwrapped.members.encoder.names
    assert observation[names.index("progress")] == 1
    following, _ = env.reset()
    assert env.unwrapped.members.growth.episodes[0].seed == episode_seed(5, 0, 1)
    assert following[names.index("progress")] == 0 and not np.array_equal(following, first)
    assert np.array_equal(env.reset(seed=5)[0], first)
    env.reset(options={"episode_seeds": [9]})
    assert env.unwrapped.members.growth.episodes[0].seed == 9


def test_statistics_of_one_member_come_from_gymnasiums_wrapper():
    env = gymnasium.wrappers.RecordEpisodeStatistics(make())
    env.reset(seed=0)
    rewards = []
    for _ in range(3):
        _, reward, _, _, info = env.step(0)
        rewards.append(reward)
    assert info["episode"]["l"] == 3 and info["episode"]["r"] == pytest.approx(sum(rewards))


def form(info: dict) -> dict:
    """What an info consists of: the types, shapes and masks, without the figures."""
    return {
        name: form(value)
        if isinstance(value, dict)
        else value.tolist()
        if value.dtype == np.bool_ and name.startswith("_")
        else (value.dtype, value.shape)
        for name, value in info.items()
        if name.strip("_") != "episode"
    }


@pytest.mark.slow
def test_many_members_say_what_as_many_single_environments_would():
    together = make_vec(2)
    one_by_one = make_vec(2, vectorization_mode="sync", vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP})
    assert isinstance(together, GrowthVectorEnv)
    assert together.action_space == one_by_one.action_space
    assert together.observation_space == one_by_one.observation_space
    (seen, info), (expected, expected_info) = together.reset(seed=2), one_by_one.reset(seed=2)
    assert seen.dtype == expected.dtype and form(info) == form(expected_info)
    for _ in range(7):
        stepped, wanted = together.step(np.zeros(2, dtype=np.int64)), one_by_one.step(np.zeros(2, dtype=np.int64))
        for ours, theirs in zip(stepped[:-1], wanted[:-1], strict=True):
            assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        assert np.array_equal(stepped[3], wanted[3])
        assert form(stepped[-1]) == form(wanted[-1])


@pytest.mark.slow
def test_equal_seeds_are_equal_episodes_in_whatever_environment():
    histories = []
    for _ in range(2):
        env, draw = make_vec(3), np.random.default_rng(0)
        _, info = env.reset(seed=8)
        history = []
        for _ in range(5):
            step = env.step(np.array([draw.choice(np.flatnonzero(mask)) for mask in info["action_mask"]]))
            history.append(step[:4])
            info = step[-1]
        histories.append(history)
    for ours, theirs in zip(*histories, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.slow
def test_overrides_are_those_of_a_run():
    env = make_growth_env([*TINY, "engine=fused", "epochs=7"], members=2)
    assert env.growth.population.engine.kind == "fused" and env.growth.epochs == 7 and env.num_envs == 2
    assert make_growth_env([*TINY, "engine.members=5"]).num_envs == 5
    with pytest.raises(ConfigError, match=r"engine.membres"):
        make_growth_env(["engine.membres=5"])
    sparse = make_growth_env([*TINY, "reward=sparse"], members=1)
    sparse.reset(seed=0)
    assert sparse.step(np.array([0]))[1] == 0


def test_registering_costs_no_torch():
    program = "import esper.envs, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=30).returncode == 0


def test_one_member_takes_no_action_that_is_no_integer():
    env = make().unwrapped
    env.reset(seed=0)
    for action in (1.7, True, "1", None, [0], float("nan"), np.array([0]), -1, 10**6):
        with pytest.raises(EngineError, match=r"^action"):
            env.step(action)
    env.step(np.int64(0))
    env.step(0)


@pytest.mark.slow
def test_seeds_of_episodes_are_whole_numbers():
    env = make().unwrapped
    for seeds in ([1.5], [True], ["1"], [-1], [1, 2], 3, None, [None], [2**64]):
        with pytest.raises(EngineError, match=r"episode_seeds=.*: expected 1 whole number"):
            env.reset(options={"episode_seeds": seeds})

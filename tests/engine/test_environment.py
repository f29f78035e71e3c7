"""Growth as a Gymnasium vector environment."""

import json

import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Discrete, MultiDiscrete
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from esper.engine.arguments import action_numbers
from esper.engine.environment import GrowthVectorEnv, episode_seed
from esper.errors import EngineError, LearnerError
from esper.leyline import Action, ActionLayout, Operation, SeedStage
from esper.simic.rewards.config import ContributionRewardConfig
from esper.simic.rewards.functions import build_reward
from esper.tamiyo.masks import legal_actions
from esper.tamiyo.observation import ObservationEncoder, action_masks
from tests.engine.growing import reported, stepped
from tests.engine.test_growth import BLUEPRINTS
from tests.engine.test_restart import break_, growth

LAYOUT = ActionLayout(("early", "mid", "late"), BLUEPRINTS, ("linear", "gated"))
SIZES = [(name, 100) for name in BLUEPRINTS]


def environment(members: int = 3, epochs: int = 4, reward=None, **settings) -> GrowthVectorEnv:
    reward = reward or build_reward(ContributionRewardConfig())
    encoder = ObservationEncoder(LAYOUT.slots, SIZES)
    return GrowthVectorEnv(growth(members, epochs=epochs, **settings), LAYOUT, encoder, action_masks, reward)


def waits(env: GrowthVectorEnv) -> np.ndarray:
    return np.zeros(env.num_envs, dtype=np.int64)


def drawn(masks: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """A legal action of each member."""
    return np.array([draw.choice(np.flatnonzero(mask)) for mask in masks])


def play(env: GrowthVectorEnv, steps: int, info: dict, stream: int = 0) -> list[tuple]:
    """Steps of legal actions; the masks are those of `info`."""
    draw, history = np.random.default_rng(stream), []
    for _ in range(steps):
        observations, rewards, terminated, truncated, info = env.step(drawn(info["action_mask"], draw))
        assert np.array_equal(info["action_mask"], env.action_masks())
        info.get("episode", {}).pop("t", None)
        history.append((observations, rewards, terminated, truncated, info))
    return history


def assert_equal(ours, theirs) -> None:
    """Equal to the last bit, infos included."""
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert_equal(ours[name], theirs[name])
    elif isinstance(ours, list | tuple) or getattr(ours, "dtype", None) == np.object_:
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_equal(one, other)
    else:
        assert np.array_equal(ours, theirs) and getattr(ours, "dtype", 0) == getattr(theirs, "dtype", 0)


def test_spaces_and_what_is_declared():
    env = environment()
    assert env.single_action_space == Discrete(len(LAYOUT))
    assert env.action_space == MultiDiscrete([len(LAYOUT)] * 3)
    assert env.observation_space.shape == (3, len(env.encoder.names)) and env.observation_space.dtype == np.float32
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    observations, info = env.reset(seed=0)
    for _ in range(9):
        assert observations in env.observation_space
        observations, *_, info = env.step(drawn(env.action_masks(), np.random.default_rng(0)))
        for final in info.get("final_obs", ()):
            assert final in env.single_observation_space


def test_an_episode_ends_after_its_last_epoch_and_the_next_begins_in_the_same_step():
    env = environment(epochs=2)
    env.reset(seed=5)
    _, _, terminated, truncated, info = env.step(waits(env))
    assert (
        not terminated.any()
        and not truncated.any()
        and set(info)
        == {
            "action_mask",
            "_action_mask",
            "refused",
            "_refused",
        }
    )
    forbidden = np.full(3, LAYOUT.number(Action(Operation.CULL, "late")))
    observations, rewards, terminated, truncated, info = env.step(forbidden)
    assert not terminated.any() and truncated.all() and (rewards != 0).all()
    assert [report.epoch for report in env.reports] == [2, 2, 2]
    assert [report.epoch for report in reported(env.growth)] == [0, 0, 0]
    names = env.encoder.names
    assert (observations[:, names.index("progress")] == 0).all()
    assert all(final[names.index("progress")] == 1 for final in info["final_obs"])
    final = info["final_info"]
    assert final["episode_seed"].tolist() == [episode_seed(5, member, 0) for member in range(3)]
    assert final["val_accuracy"].tolist() == [report.val_accuracy for report in env.reports]
    assert [episode.seed for episode in env.growth.episodes] == [episode_seed(5, member, 1) for member in range(3)]
    assert final["refused"].tolist() == [1, 1, 1] and env.step(waits(env))[-1]["refused"].tolist() == [0, 0, 0]


def test_statistics_are_those_of_gymnasiums_wrapper():
    env = environment(epochs=3, max_rollbacks=1)
    wrapped = RecordEpisodeStatistics(env, stats_key="theirs")
    _, info = wrapped.reset(seed=1)
    draw, ended = np.random.default_rng(0), 0
    for step in range(8):
        if step == 4:
            break_(env.growth, 1)
        *_, info = wrapped.step(drawn(env.action_masks(), draw))
        assert ("episode" in info) == ("theirs" in info)
        if "episode" in info:
            ended += 1
            assert info["_episode"].tolist() == info["_theirs"].tolist()
            for name in "rlt":
                assert info["episode"][name].dtype == info["theirs"][name].dtype
            assert np.array_equal(info["episode"]["t"] > 0, info["theirs"]["t"] > 0)
            for name in "rl":
                assert np.array_equal(info["episode"][name], info["theirs"][name])
    assert ended == 4  # all three, member 1 early, the others, member 1 again


def test_a_member_that_is_retired_begins_anew_alone():
    env = environment(epochs=6, max_rollbacks=1)
    env.reset(seed=2)
    for _ in range(2):
        env.step(waits(env))
    break_(env.growth, 1)
    observations, rewards, terminated, truncated, info = env.step(waits(env))
    assert terminated.tolist() == [False, True, False] and not truncated.any()
    assert info["_final_obs"].tolist() == info["_final_info"].tolist() == [False, True, False]
    assert info["final_obs"][0] is None and np.isfinite(info["final_obs"][1]).all()
    assert info["final_info"]["action_mask"][1].tolist() == [True] + [False] * (len(LAYOUT) - 1)
    assert info["action_mask"][1].sum() == 1 + 3 * len(BLUEPRINTS) * 2  # every slot is free again
    assert info["_refused"].tolist() == [True, False, True]
    assert info["episode"]["l"].tolist() == [0, 3, 0] and info["episode"]["r"][1] == pytest.approx(rewards[1], abs=0.2)
    assert np.isfinite(rewards).all() and observations in env.observation_space
    lengths = []
    for _ in range(6):
        *_, truncated, info = env.step(waits(env))
        lengths.append(truncated.tolist())
    assert lengths[2] == [True, False, True] and lengths[5] == [False, True, False]


def test_an_end_of_both_kinds_is_a_termination():
    env = environment(members=2, epochs=1, max_rollbacks=1)
    env.reset(seed=0)
    break_(env.growth, 0)
    _, _, terminated, truncated, _ = env.step(waits(env))
    assert terminated.tolist() == [True, False] and truncated.tolist() == [False, True]


@pytest.mark.slow
def test_a_seed_decides_everything_and_goes_on_to_other_episodes():
    env, other = environment(), environment()
    first = play(env, 6, env.reset(seed=11)[1])
    assert_equal(first, play(other, 6, other.reset(seed=11)[1]))
    going_on = play(env, 2, env.reset()[1])
    assert_equal(going_on, play(other, 2, other.reset()[1]))
    assert not np.array_equal(going_on[0][0], first[0][0])
    assert_equal(first, play(env, 6, env.reset(seed=11)[1]))
    assert not np.array_equal(play(env, 1, env.reset(seed=12)[1])[0][0], first[0][0])


def test_without_a_seed_the_first_reset_takes_the_runs():
    env, other = environment(), environment()
    assert_equal(play(env, 3, env.reset()[1]), play(other, 3, other.reset(seed=other.growth.seed)[1]))


def test_an_evaluation_names_the_seeds_of_its_episodes():
    env = environment(epochs=1)
    for _ in range(2):
        env.reset(seed=4, options={"episode_seeds": [100, 101, 100]})
        *_, info = env.step(waits(env))
        assert info["final_info"]["episode_seed"].tolist() == [100, 101, 100]
        assert env.reports[0].val_loss == pytest.approx(env.reports[2].val_loss, rel=1e-9)
        assert env.reports[0].val_loss != env.reports[1].val_loss
        *_, info = env.step(waits(env))
        assert info["final_info"]["episode_seed"].tolist() == [episode_seed(4, member, 1) for member in range(3)]
    with pytest.raises(EngineError, match=r"episode_seeds=\[1\]: expected 3"):
        env.reset(options={"episode_seeds": [1]})
    with pytest.raises(EngineError, match="the only one is episode_seeds"):
        env.reset(options={"episode_seed": [1, 2, 3]})


@pytest.mark.slow
def test_one_member_goes_through_what_a_plain_growth_run_does():
    env, plain = environment(members=1, epochs=9), growth(members=1, epochs=9)
    _, info = env.reset(seed=3, options={"episode_seeds": [3]})
    plain.restart([0], [3])  # as a run of seed 3 begins
    draw, encoder = np.random.default_rng(8), ObservationEncoder(LAYOUT.slots, SIZES)
    encoder.encode(reported(plain))
    for _ in range(9):
        number = drawn(info["action_mask"], draw)
        observations, *_, info = env.step(number)
        reports, _ = stepped(plain, [LAYOUT.actions[number[0]]])
        assert repr(reports) == repr(env.reports)
        seen = observations if "final_obs" not in info else np.stack(info["final_obs"])
        assert np.array_equal(encoder.encode(reports), seen)


@pytest.mark.slow
def test_the_mask_is_what_is_legal_and_a_forbidden_action_is_a_counted_wait():
    env, waiting = environment(members=2, epochs=30), environment(members=2, epochs=30)
    _, info = env.reset(seed=6)
    waiting.reset(seed=6)
    draw = np.random.default_rng(1)
    for forbidden in range(1, 11):
        for mask, report in zip(info["action_mask"], reported(env.growth), strict=True):
            legal = legal_actions(report, LAYOUT.blueprints, LAYOUT.blends)
            assert np.flatnonzero(mask).tolist() == sorted(LAYOUT.number(action) for action in legal)
        numbers = np.array([drawn(info["action_mask"], draw)[0], draw.choice(np.flatnonzero(~info["action_mask"][1]))])
        observations, _, _, _, info = env.step(numbers)
        expected, *_ = waiting.step(np.array([numbers[0], 0]))
        assert info["refused"].tolist() == [0, forbidden]
        differing = np.flatnonzero(observations[1] != expected[1])
        assert all("action" in env.encoder.names[i] or "refused" in env.encoder.names[i] for i in differing)
        stages = [seed.stage for seed in env.reports[1].slots.values()]
        assert stages == [SeedStage.DORMANT] * 3 and env.reports[1].is_refused


@pytest.mark.sampled(1)
@pytest.mark.parametrize("stop", [0, 3, 5])
def test_a_resumed_environment_goes_on_bit_for_bit(stop):
    settings = {"epochs": 4, "snapshot_every_epochs": 2, "max_rollbacks": 2}
    whole, resumed = environment(**settings), environment(**settings)
    _, info = whole.reset(seed=9)
    if stop:
        *_, info = play(whole, stop, info)[-1]
    break_(whole.growth, 2)  # rolls back, in the resumed one too
    tensors, plain = whole.state()
    resumed.reset(seed=1)  # whatever it has done before
    resumed.step(waits(resumed))
    resumed.load_state({n: t.clone() for n, t in tensors.items()}, json.loads(json.dumps(plain, allow_nan=False)))
    assert_equal(play(whole, 7, info, stream=5), play(resumed, 7, info, stream=5))
    assert np.array_equal(whole.reset()[0], resumed.reset()[0])


def test_a_reward_that_is_not_finite_names_member_and_epoch():
    env = environment(reward=lambda before, after: float("nan") if (after.member, after.epoch) == (1, 2) else 0.0)
    env.reset(seed=0)
    env.step(waits(env))
    with pytest.raises(LearnerError, match=r"reward of member 1 in epoch 2 of its episode .* is nan"):
        env.step(waits(env))


NO_ACTIONS = [  # as one action, or as each of several
    *(1.7, 0.0, -0.0, float("nan"), float("inf"), np.float32(1), 1j),
    *(True, np.False_, None, "1", b"1", "wait", object(), {}, {1}, slice(0)),
    *(-1, 10**6, 2**70, np.uint64(2**63), np.int8(-1)),
    *([], [0, [1]], [[0]], np.zeros((1, 1), int), torch.zeros(1), torch.tensor(0.0)),
    np.datetime64(0, "s"),
]
FAULTY = pytest.mark.parametrize(
    "action", NO_ACTIONS, ids=lambda action: f"{type(action).__name__} {action}".partition(" at 0x")[0][:40]
)


@FAULTY
def test_one_action_is_an_integer_that_there_is(action):
    with pytest.raises(EngineError, match=r"^action.*: (expected|they are)") as caught:
        action_numbers(action, None, 9)
    assert "\n" not in str(caught.value)
    with pytest.raises(EngineError):
        action_numbers([0], None, 9)


@FAULTY
def test_actions_are_as_many_integers_as_members(action):
    for actions in ([action] * 3, [0, 0, action], action):
        with pytest.raises(EngineError) as caught:
            action_numbers(actions, 3, 9)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("actions", [[0, 0], [0] * 4, 0, [[0, 0, 0]], np.zeros((3, 1), int), []])
def test_actions_of_another_shape_are_refused(actions):
    with pytest.raises(EngineError, match="expected 3 integers, 0 to 8, found"):
        action_numbers(actions, 3, 9)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int64, np.uint64])
def test_integers_of_any_width_are_taken(kind):
    assert action_numbers(np.array([0, 3, 8], kind), 3, 9) == [0, 3, 8]
    assert action_numbers(kind(8), None, 9) == action_numbers(np.array(8, kind), None, 9) == [8]
    assert action_numbers([0, 3, 8], 3, 9) == action_numbers(torch.tensor([0, 3, 8]), 3, 9) == [0, 3, 8]


@pytest.mark.parametrize(
    ("actions", "said"),
    [([0, 0], "expected 3 integers"), ([0, 0, 99], "action 99 of member 2"), ([0.0] * 3, "found float64")],
)
def test_what_is_no_action_changes_nothing(actions, said):
    env = environment()
    env.reset()
    with pytest.raises(EngineError, match=said):
        env.step(np.array(actions))
    assert [report.epoch for report in reported(env.growth)] == [0] * 3
    env.step(waits(env))


def test_nothing_goes_before_the_first_reset():
    env = environment()
    with pytest.raises(ResetNeeded):
        env.step(waits(env))
    with pytest.raises(ResetNeeded):
        env.action_masks()


def test_a_member_trains_no_less_for_being_one_of_many():
    """Work on one member's restart leaves torch's global stream, and the gradients of others, alone."""
    env = environment(epochs=1)
    before = torch.get_rng_state()
    env.reset(seed=0)
    env.step(waits(env))
    assert torch.equal(torch.get_rng_state(), before)

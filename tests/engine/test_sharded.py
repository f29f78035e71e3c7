"""A population over several ranks is what it is in one process."""

from typing import Any

import numpy as np
import pytest
import torch

from esper.builders.policy import build_policy
from esper.builders.population import build_environment, build_growth
from esper.config import compose
from esper.errors import ConfigError, EngineError
from esper.leyline import WAIT, Action, Operation
from esper.leyline.ranks import ALONE, Ranks
from tests.engine.growing import reported, scored, stepped
from tests.ranks import as_ranks

SMALL = ["engine=fused", "engine.members=3", "engine.threads=1", "engine.precision=float64", "slots=early_late"]
SMALL += ["task.image_size=8", "host.channels=[2,4]", "slots.blending_epochs=2", "gates=permissive", "epochs=7"]
QUICK = ["policy.first_plant_epoch=1", "policy.min_training_epochs=1", "policy.probation_epochs=1"]
ROUGH = ["engine.governor.collapse_points=2", "engine.governor.snapshot_every_epochs=1", "optimizer.learning_rate=0.3"]
SETTINGS = {"heuristic": [*SMALL, *QUICK], "rough": [*SMALL, *ROUGH, "policy=random", "engine.members=5"]}
HALF = 4

State = tuple[dict[str, np.ndarray], dict[str, Any]]


def kept(state: tuple[dict[str, torch.Tensor], dict[str, Any]]) -> State:
    return {name: tensor.numpy().copy() for name, tensor in state[0].items()}, state[1]


def course(ranks: Ranks, overrides: list[str], start: Any = None, epochs: int = 99) -> dict[str, Any]:
    """All that is seen of a growth from its start, or from where another one stopped."""
    config = compose(overrides)
    grown = build_growth(config, ranks=ranks)
    growth, (controller, _) = grown.growth, build_policy(config, grown)
    if start:
        (tensors, plain), remembered = start
        growth.load_state({name: torch.from_numpy(value) for name, value in tensors.items()}, plain)
        controller.load_state_dict(remembered)
    reports, events = reported(growth), []
    told = [reports]
    while not growth.done and growth.epoch < epochs:
        reports, happened = stepped(growth, controller.act(reports))
        told.append(reports)
        events += [event.to_dict() for event in happened]
    scores = scored(growth)
    return {
        "figures": [[(r.train_loss, r.val_loss, r.val_accuracy, r.rollbacks) for r in seen] for seen in told],
        "members": [[(r.member, r.epoch, r.is_twin, r.retired, str(r.action)) for r in seen] for seen in told],
        "events": [(e["type"], e["epoch"], e["member"], e["slot"], e["seed"]) for e in events],
        "log": growth.growth_log,
        "scores": [scores.loss.tolist(), scores.score.tolist()],
        "state": kept(growth.state()),
        "twin_of": grown.twin_of,
        "controller": controller.state_dict(),
    }


def check_alike(one: dict[str, Any], other: dict[str, Any], has_state: bool = True) -> None:
    for exact in ("members", "events", "log", "twin_of"):
        assert one[exact] == other[exact]
    for near in ("figures", "scores"):
        np.testing.assert_allclose(np.array(one[near]), np.array(other[near]), rtol=1e-9, atol=1e-9)
    if not has_state:
        assert one["state"] == ({}, {}), "rank 0 alone keeps"
        return
    (tensors, plain), (expected, told) = one["state"], other["state"]
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(tensors[name], value, rtol=1e-9, atol=1e-9, err_msg=name)
    assert plain.keys() == told.keys()
    assert plain["population"]["members"] == told["population"]["members"]
    assert plain["governor"]["snapshot"]["members"] == told["governor"]["snapshot"]["members"]
    assert [plain[key] for key in ("epoch", "episodes", "growth_log")] == [
        told[key] for key in ("epoch", "episodes", "growth_log")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_its_members_are_those_of_one_process(tmp_path, setting: str) -> None:
    alone = course(ALONE, SETTINGS[setting])
    happened = {event[0] for event in alone["events"]}
    assert ("fossilized" if setting == "heuristic" else "member_retired") in happened
    for rank, found in enumerate(as_ranks(2, tmp_path, course, SETTINGS[setting])):
        check_alike(found, alone, has_state=rank == 0)


def halves(ranks: Ranks, settings: list[str], start: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A course up to its middle, and one from there on."""
    return course(ranks, settings, epochs=HALF), course(ranks, settings, start)


@pytest.mark.slow
def test_another_number_of_ranks_goes_on_with_it(tmp_path) -> None:
    settings = SETTINGS["rough"]
    whole, half = course(ALONE, settings), course(ALONE, settings, epochs=HALF)
    (shared, end), *_ = as_ranks(3, tmp_path, halves, settings, (half["state"], half["controller"]))
    for found in (end, course(ALONE, settings, (shared["state"], shared["controller"]))):
        assert found["members"] == whole["members"][HALF:]
        np.testing.assert_allclose(np.array(found["figures"]), np.array(whole["figures"][HALF:]), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(np.array(found["scores"]), np.array(whole["scores"]), rtol=1e-9, atol=1e-9)


def episodes(ranks: Ranks, start: Any = None) -> tuple[list[Any], State]:
    """A few steps of an environment, over the ends of its episodes."""
    config = compose([*SMALL, "epochs=3", "policy=ppo"])
    env, _ = build_environment(config, ranks=ranks)
    if start:
        env.load_state({name: torch.from_numpy(value) for name, value in start[0].items()}, start[1])
    else:
        env.reset(seed=3)
    draw = np.random.default_rng(0)
    seen = []
    for _ in range(5):
        actions = np.array([draw.choice(np.flatnonzero(legal)) for legal in env.action_masks()])
        observations, rewards, terminated, truncated, info = env.step(actions)
        seen.append([observations.tolist(), rewards.tolist(), terminated.tolist(), truncated.tolist()])
        if truncated.any():
            seen[-1] += [info["episode"]["r"].tolist(), info["final_info"]["episode_seed"].tolist()]
    return seen, kept(env.state())


def twice(ranks: Ranks, start: Any) -> tuple[Any, Any]:
    return episodes(ranks), episodes(ranks, start)


@pytest.mark.slow
def test_an_environment_over_ranks(tmp_path) -> None:
    alone, middle = episodes(ALONE)
    further, _ = episodes(ALONE, middle)
    first, other = as_ranks(2, tmp_path, twice, middle)
    assert first[0][0] == other[0][0] and other[0][1][0] == {}
    resumed, _ = episodes(ALONE, first[0][1])
    for found, expected in ((first[0][0], alone), (first[1][0], further), (resumed, further)):
        for step, reference in zip(found, expected, strict=True):
            assert len(step) == len(reference)
            for part, known in zip(step, reference, strict=True):
                np.testing.assert_allclose(np.array(part), np.array(known), rtol=1e-6, atol=1e-6)


def at_odds(ranks: Ranks) -> None:
    growth = build_growth(compose(SMALL), ranks=ranks).growth
    plant = Action(Operation.GERMINATE, "early", "norm")
    stepped(growth, [plant if ranks.rank else WAIT] + [WAIT] * 5)


def test_ranks_that_decide_differently_find_out(tmp_path) -> None:
    for error in as_ranks(2, tmp_path, at_odds):
        assert isinstance(error, EngineError) and "decide differently" in str(error)


def test_every_rank_needs_a_member(tmp_path) -> None:
    for error in as_ranks(2, tmp_path, course, [*SMALL, "engine.members=1"]):
        assert isinstance(error, ConfigError) and "engine.members=1: fewer than the 2 processes" in str(error)

"""Which seeds a run owes something to: exactly those that it, its episodes and its teachers had."""

import json

import pytest

from esper.builders.policy import VALIDATION_SEED
from esper.checkpoint import Checkpoint, CheckpointManager
from esper.config import compose, to_plain
from esper.engine.environment import episode_seed
from esper.errors import CheckpointError, ConfigError
from esper.run import main
from esper.study.evaluate.held_out import SeenSeeds, check_held_out, seen_seeds

PPO = ["policy=ppo", "policy.members=2", "controls=[]", "engine.kind=sequential"]


def stored(*overrides, episodes=None):
    """A checkpoint of a run with these overrides, whose two members have ended so many whole episodes."""
    learning = None if episodes is None else {"episodes": episodes, "steps": 25 * episodes}
    return Checkpoint(tensors={}, config=to_plain(compose(overrides)), state={"learning": learning})


class Kept:
    """Something that a checkpoint can be made of."""

    def __init__(self, checkpoint):
        self.checkpoint = checkpoint

    def state(self):
        return {}, self.checkpoint.state


def keep(folder, checkpoint):
    """The folder of a run with this checkpoint."""
    CheckpointManager(folder).save_checkpoint(Kept(checkpoint), 1, kind="population", config=checkpoint.config)
    (folder / "run.json").write_text("{}")
    (folder / "config.yaml").write_text(json.dumps(checkpoint.config))
    return folder


def test_a_rule_knows_the_seed_of_its_run():
    assert seen_seeds(stored("seed=7")) == SeenSeeds({7}, set(), [])


@pytest.mark.slow
def test_a_policy_knows_its_episodes_and_its_validations():
    seen = seen_seeds(stored("seed=7", *PPO, "policy.validate_every=5", "policy.validation_episodes=3", episodes=4))
    assert seen.learned == {7, *(episode_seed(7, member, number) for member in (0, 1) for number in range(3))}
    held = 7 + VALIDATION_SEED
    assert {held, *(episode_seed(held, member, 0) for member in range(3))} <= seen.validated
    assert not seen.validated & seen.learned


@pytest.mark.slow
def test_the_seeds_are_those_of_the_hosts_that_were_really_trained(tmp_path):
    tiny = ["debug=smoke", *PPO, "policy.updates=3", "seed=3", "telemetry=none", "checkpoint=often"]
    assert main([*tiny, "checkpoint.keep_last=9", f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    kept = CheckpointManager(tmp_path / "run")
    for update in (1, 2):
        checkpoint = kept.load_agent(update)
        trained = {seed for seed, *_ in checkpoint.state["learning"]["env"]["growth"]["episodes"]}
        seen = seen_seeds(checkpoint)
        assert len(trained) == 2 and trained <= seen.learned
        assert len(seen.learned) == 1 + 2 * (update + 1)  # the run's; of each member those that ended, and the next
        assert seen.learned < seen_seeds(kept.load_latest_agent()).learned


@pytest.mark.slow
def test_episodes_that_ended_early_make_room_for_more():
    checkpoint = stored("seed=7", *PPO, episodes=4)
    checkpoint.state["learning"]["episodes"] += 3  # in the same number of steps
    assert episode_seed(7, 1, 5) in seen_seeds(checkpoint).learned


@pytest.mark.sampled(2)
@pytest.mark.parametrize("wrong", ["x", [1], {"steps": "x", "episodes": 1}, {"steps": 1, "episodes": 10**15}])
def test_what_is_no_record_of_learning_is_refused(wrong):
    checkpoint = stored("seed=7", *PPO, episodes=4)
    checkpoint.state["learning"] = wrong
    with pytest.raises(CheckpointError, match=r"no state of this run: .*learning"):
        seen_seeds(checkpoint)


@pytest.mark.slow
def test_what_a_policy_was_loaded_from_counts(tmp_path):
    first = keep(tmp_path / "first", stored("seed=1", *PPO, episodes=2))
    second = keep(tmp_path / "second", stored("seed=2", *PPO, f"policy.load={first}", episodes=2))
    seen = seen_seeds(stored("seed=3", *PPO, "policy.updates=0", f"policy.load={second}"))
    assert {1, 2, 3, episode_seed(1, 0, 0), episode_seed(2, 1, 0)} <= seen.learned
    assert seen.unknown == []


@pytest.mark.slow
def test_runs_that_were_recorded_to_learn_from_count(tmp_path):
    data = [keep(tmp_path / str(seed), stored(f"seed={seed}")) for seed in (11, 12)]
    gone = tmp_path / "gone"
    seen = seen_seeds(stored("policy=iql", f"policy.dataset=[{','.join(map(str, [*data, gone]))}]"))
    assert seen.learned == {0, 11, 12}
    assert seen.unknown == [str(gone)]


def test_a_policy_whose_origin_is_gone_is_told():
    assert seen_seeds(stored(*PPO, "policy.load=gone")).unknown == ["gone"]


def test_a_seed_that_is_not_held_out_is_refused_by_name():
    seen = SeenSeeds({5, 9102}, {9104}, [])
    check_held_out(range(9105, 9125), seen, "default")
    with pytest.raises(ConfigError, match=r"suite default: seed 9102 is one that this run learned on"):
        check_held_out(range(9101, 9121), seen, "default")
    with pytest.raises(ConfigError, match=r"seed 9104 is one that this run was validated on"):
        check_held_out(range(9103, 9106), seen, "default")

import json
import math
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from esper.errors import ConfigError, LearnerError
from esper.kasmina import BlueprintRegistry
from esper.leyline import (
    ACCURACY,
    R_SQUARED,
    WAIT,
    Action,
    EpochReport,
    Operation,
    SeedStage,
    SeedStateReport,
    SimicAction,
)
from esper.leyline.blueprints import BLUEPRINTS, blueprint_names
from esper.nissa.hub import finite
from esper.runner.records import EpochTimes, epoch_record
from esper.simic.features import BASE_FEATURES
from esper.simic.iql.config import IQLPolicyConfig
from esper.simic.iql.dataset import read_dataset
from esper.simic.iql.offline import build_offline_training
from esper.simic.iql.recorded import find_runs, read_episodes
from esper.simic.iql.slot_states import PLANTING, SlotWatcher, action_done, legal_actions_of
from esper.simic.rewards.config import MinimalRewardConfig
from esper.simic.rewards.functions import build_reward

EPOCHS = 4
TIMES = EpochTimes(0, 0, 0, 0, 0, 1)
PLANT = Action(Operation.GERMINATE, "mid", "conv_light", "linear")
TRAINING = SeedStateReport(
    "mid", SeedStage.TRAINING, "s1", "conv_light", "linear", 0.0, 1, 1, 2.5, None, None, 0.7, 0.9, True, False, 0.2,
    300, True, True,
)  # fmt: skip
PROBATION = replace(
    TRAINING, stage=SeedStage.PROBATIONARY, alpha=1.0, contribution=1.5, contribution_loss=0.02, is_healthy=False,
    can_advance=False,
)  # fmt: skip


def report(epoch, member=0, action=WAIT, is_refused=False, seeds=(), **values):
    slots = {name: SeedStateReport(name) for name in ("early", "mid")} | {seed.slot_id: seed for seed in seeds}
    known = {"train_loss": 1.0 / (epoch + 1), "train_accuracy": 40.0 + epoch, "val_loss": 1.5 - 0.1 * epoch}
    unknown = {"train_loss": math.nan, "train_accuracy": math.nan} if epoch == 0 else {}
    accuracy = 50.0 + epoch * (1 + member)
    fixed = {"val_accuracy": accuracy, "best_val_accuracy": accuracy, "parameter_count": 1000, "flops_per_sample": 9}
    return EpochReport(
        member, epoch, EPOCHS, slots=slots, action=action, is_refused=is_refused, **(known | unknown | fixed | values)
    )


def course(member=0):
    """A member that plants, is refused, advances what was planted, and waits."""
    return [
        report(0, member),
        report(1, member, PLANT, seeds=[TRAINING]),
        report(2, member, Action(Operation.GERMINATE, "early", "norm"), True, [TRAINING], parameter_count=1300),
        report(3, member, Action(Operation.ADVANCE, "mid"), seeds=[PROBATION], rolled_back=True, rollbacks=1),
        report(4, member, seeds=[PROBATION], rollbacks=1),
    ]


def record(reports, kind=ACCURACY):
    return finite(epoch_record(reports, TIMES, {}, kind))


@pytest.fixture
def run(tmp_path):
    """Writes members' courses as a run, and returns its folder."""

    def write(*courses, name="run", max_epochs=EPOCHS):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        lines = [json.dumps(record(list(reports))) for reports in zip(*courses, strict=True)]
        (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        (folder / "run.json").write_text(json.dumps({"max_epochs": max_epochs}))
        return folder

    return write


def same(first, second):
    """Equal, NaN being equal to itself; reasons are not recorded."""
    return repr(replace(first, action=replace(first.action, reason=""))) == repr(second)


# ---- reports


def test_what_a_run_writes_is_read_back_whole(run):
    courses = [course(0), course(1)]
    found = read_episodes(run(*courses))
    assert [len(episode) for episode in found] == [5, 5]
    for expected, episode in zip(courses, found, strict=True):
        for one, other in zip(expected, episode, strict=True):
            assert same(one, other)


def test_a_regression_is_read_back_whole(run):
    reports = [replace(one, val_rmse=2.0 + one.epoch) for one in course()]
    folder = run(course())
    lines = [json.dumps(record([one], R_SQUARED)) for one in reports]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (episode,) = read_episodes(folder)
    assert all(same(one, other) for one, other in zip(reports, episode, strict=True))
    (folder / "metrics.jsonl").write_text("\n".join(lines).replace("train_r2", "lost") + "\n")
    with pytest.raises(LearnerError, match="line 1: member 0: there is no 'train_r2'"):
        read_episodes(folder)


def test_an_epoch_that_does_not_follow_begins_an_episode(run):
    found = read_episodes(run([*course(), *course()]))
    assert [[report.epoch for report in episode] for episode in found] == [[0, 1, 2, 3, 4]] * 2


def test_a_line_that_was_never_finished_is_ignored(run):
    folder = run(course())
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps(record([report(5)])))  # no line break
    assert len(read_episodes(folder)[0]) == 5
    with open(folder / "metrics.jsonl", "a") as file:
        file.write("\n")
    assert len(read_episodes(folder)[0]) == 6


def mid(record):
    return record["members"][0]["slots"]["mid"]


def asked(record):
    return record["members"][0]["action"]


def spoil(folder, line, change):
    path = folder / "metrics.jsonl"
    records = [json.loads(text) for text in path.read_text().splitlines()]
    change(records[line - 1])
    path.write_text("".join(json.dumps(one) + "\n" for one in records))


@pytest.mark.parametrize(
    ("line", "change", "expected"),
    [
        (1, lambda r: r.update(schema=1), r"line 1: found schema 1; expected schema 2"),
        (3, lambda r: r.pop("schema"), r"line 3: found schema None; expected schema 2"),
        (2, lambda r: r.pop("members"), r"line 2: there is no 'members'"),
        (2, lambda r: r.update(epoch=1.5), r"line 2: epoch is 1.5; expected an integer"),
        (2, lambda r: r["members"][0].pop("action"), r"line 2: members\[0\]: there is no 'action'"),
        (2, lambda r: r["members"][0].update(retired=0), r"members\[0\].retired is 0; expected true or false"),
        (2, lambda r: r["members"].append(7), r"line 2: members\[1\] is 7; expected an object"),
        (2, lambda r: asked(r).pop("is_refused"), r"members\[0\].action: there is no 'is_refused'"),
        (2, lambda r: asked(r).update(operation="GROW"), r"found operation 'GROW'; expected one of WAIT"),
        (4, lambda r: mid(r).pop("can_advance"), r"members\[0\].slots.mid: there is no 'can_advance'"),
        (4, lambda r: mid(r).update(alpha="x"), r"slots.mid.alpha is 'x'; expected a number"),
        (4, lambda r: mid(r).update(stage_value=5), r"found stage_value=5; expected a stage"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named_with_its_place(run, line, change, expected):
    folder = run(course())
    spoil(folder, line, change)
    with pytest.raises(LearnerError, match=expected) as caught:
        read_dataset([folder])
    assert str(folder / "metrics.jsonl") in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


def test_a_broken_line_in_the_middle_is_named(run):
    folder = run(course())
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join([*lines[:2], '{"half', *lines[2:]]) + "\n")
    with pytest.raises(LearnerError, match=r"metrics\.jsonl, line 3: it is not JSON"):
        read_dataset([folder])


def test_what_is_no_run_is_named(run, tmp_path):
    with pytest.raises(LearnerError, match="no run with a metrics"):
        read_dataset([tmp_path / "nothing"])
    folder = run(course())
    (folder / "run.json").unlink()
    with pytest.raises(LearnerError, match=r"run\.json cannot be read"):
        read_dataset([folder])
    with pytest.raises(LearnerError, match="hold no transition"):
        read_dataset([run(course()[:1], name="short")])
    with pytest.raises(LearnerError, match="hold no transition"):
        read_dataset([])


def test_a_folder_in_the_place_of_lines_is_named(run):
    folder = run(course())
    (folder / "metrics.jsonl").unlink()
    (folder / "metrics.jsonl").mkdir()
    with pytest.raises(LearnerError, match=r"metrics\.jsonl cannot be read \(it is a folder"):
        read_episodes(folder)


def test_a_folder_of_runs_stands_for_all_of_them(run, tmp_path):
    folders = [run(course(), name=f"sweep/{index}") for index in range(3)]
    assert find_runs(tmp_path / "sweep") == folders
    assert len(read_dataset([tmp_path / "sweep"])) == 3 * len(read_dataset(folders[:1]))


# ---- transitions


def test_every_slot_is_a_stream_of_its_own(run):
    episode = course()
    found = read_dataset([run(episode)])
    assert len(found) == 8  # four epochs, two slots: early, mid, early, mid, ...
    assert [SimicAction(action).name for action in found.actions[0::2].tolist()] == ["WAIT"] * 4
    done = [SimicAction(action).name for action in found.actions[1::2].tolist()]
    assert done == ["GERMINATE_CONV", "WAIT", "ADVANCE", "WAIT"]
    assert found.dones.tolist() == [False] * 6 + [True] * 2


def test_shapes_and_types(run):
    for dims in (27, 37):
        found = read_dataset([run(course(), name=str(dims))], dims)
        assert found.states.shape == found.next_states.shape == (8, dims) and found.masks.shape == (8, 7)
        assert {found.states.dtype, found.next_states.dtype, found.rewards.dtype} == {torch.float32}
        assert (found.actions.dtype, found.dones.dtype, found.masks.dtype) == (torch.int64, torch.bool, torch.bool)
    with pytest.raises(LearnerError, match="54 features a slot: expected 27, or 37"):
        read_dataset([run(course(), name="full")], 54)


def test_states_are_those_that_a_controller_sees(run):
    episode = course()
    watcher = SlotWatcher(37)
    states = [watcher.states(one) for one in episode]
    found = read_dataset([run(episode)], 37)
    for epoch in range(4):
        for index, slot in enumerate(("early", "mid")):
            assert torch.equal(found.states[2 * epoch + index], torch.tensor(states[epoch][slot]))
            assert torch.equal(found.next_states[2 * epoch + index], torch.tensor(states[epoch + 1][slot]))


def test_the_features_of_a_slot_by_hand():
    watcher = SlotWatcher(37)
    for one in course()[:3]:
        state = watcher.states(one)["mid"]
    features = dict(zip(BASE_FEATURES, state, strict=False))
    assert (features["epoch"], features["global_step"]) == (2.0, 2.0)
    assert features["train_loss"] == pytest.approx(1 / 3) and features["val_loss"] == pytest.approx(1.3)
    assert features["loss_delta"] == pytest.approx(-0.1) and features["accuracy_delta"] == 1.0
    assert [features[f"accuracy_history_5[{i}]"] for i in range(5)] == [0.0, 0.0, 50.0, 51.0, 52.0]
    assert features["best_val_accuracy"] == 52.0 and features["best_val_loss"] == pytest.approx(1.3)
    assert (features["has_active_seed"], features["seed_stage"], features["seed_epochs_in_stage"]) == (1.0, 3.0, 1.0)
    assert (features["seed_improvement"], features["available_slots"]) == (2.5, 1.0)
    expected = [0.07, 0.9, 1.0, 0.0, 1 / 50, 0.52, 0.25, 2 / 6, 0.0, 2 / EPOCHS]
    assert state[27:] == pytest.approx(expected)
    assert watcher.states(report(0))["mid"][:27] == SlotWatcher(27).states(report(0))["mid"]  # an episode begins anew


def test_an_untrained_host_has_no_training_loss_and_raises_no_warning(recwarn):
    assert SlotWatcher(37).states(report(0))["mid"][2] == 0.0
    assert not recwarn.list


def test_rewards_are_those_of_the_function_that_is_handed_in(run):
    episode = course()
    judged = []

    def reward(before, after):
        judged.append((before.epoch, after.epoch))
        return float(after.epoch)

    found = read_dataset([run(episode)], 27, reward)
    assert judged == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert found.rewards.tolist() == [1, 1, 2, 2, 3, 3, 4, 4]


def test_without_one_it_is_the_minimal_reward(run):
    episode = course()
    reward = build_reward(MinimalRewardConfig())
    expected = [reward(before, after) for before, after in pairwise(episode)]
    assert read_dataset([run(episode)]).rewards[::2].tolist() == pytest.approx(expected)
    assert len(set(expected)) > 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reward_that_is_not_finite_is_named(run, value):
    with pytest.raises(LearnerError, match=r"run: the reward of member 0 in epoch 1 is (nan|inf)"):
        read_dataset([run(course())], 27, lambda before, after: value)


def test_an_episode_ends_where_its_member_is_retired(run):
    episode = [*course()[:2], report(2, retired=True), report(3, retired=True)]
    found = read_dataset([run(episode)])
    assert found.dones.tolist() == [False, False, True, True]


def test_a_run_that_was_interrupted_ends_no_episode(run):
    assert not read_dataset([run(course()[:4])]).dones.any()


def test_a_twin_is_one_stream_of_waits(run):
    twin = [report(epoch, 1, is_twin=True) for epoch in range(5)]
    found = read_dataset([run(course(0), twin)])
    assert len(found) == 12
    waits = read_dataset([run(twin, name="twin")])
    assert waits.actions.tolist() == [0] * 4
    assert waits.masks.tolist() == [[True] * 5 + [False] * 2] * 4


def test_a_planting_that_nobody_has_registered_is_left_out(run):
    episode = course()
    episode[1] = replace(episode[1], action=replace(PLANT, blueprint="their_own"))
    found = read_dataset([run(episode)])
    assert len(found) == 7
    assert SimicAction.GERMINATE_CONV.value not in found.actions


@pytest.mark.parametrize(
    ("blueprint", "family"),
    [("conv_heavy", "CONV"), ("bottleneck", "CONV"), ("mlp", "CONV"), ("attention", "ATTENTION"), ("norm", "NORM"),
     ("depthwise", "DEPTHWISE"), ("lora", "DEPTHWISE")],
)  # fmt: skip
def test_a_planting_counts_as_its_family(blueprint, family):
    after = report(1, action=replace(PLANT, blueprint=blueprint))
    assert action_done(after, "mid") is SimicAction[f"GERMINATE_{family}"]
    assert action_done(after, "early") is SimicAction.WAIT
    assert action_done(replace(after, is_refused=True), "mid") is SimicAction.WAIT


def test_every_shipped_blueprint_has_a_family():
    for topology in ("cnn", "transformer"):
        for name in blueprint_names()[topology]:
            assert action_done(report(1, action=replace(PLANT, blueprint=name)), "mid") in PLANTING


@pytest.mark.parametrize(("family", "counts_as"), [(None, "CONV"), ("norm", "NORM"), ("depthwise", "DEPTHWISE")])
def test_registering_a_blueprint_is_all_that_it_takes_to_be_learned_from(run, monkeypatch, family, counts_as):
    monkeypatch.setitem(BLUEPRINTS, "cnn", dict(BLUEPRINTS["cnn"]))
    BlueprintRegistry.register("their_own", "cnn", param_estimate=1, family=family)(lambda dim: None)
    episode = course()
    episode[1] = replace(episode[1], action=replace(PLANT, blueprint="their_own"))
    assert SimicAction[f"GERMINATE_{counts_as}"].value in read_dataset([run(episode)]).actions


def test_what_is_legal_follows_from_the_stage():
    def legal(stage, can_advance=True):
        seed = replace(TRAINING, stage=stage, can_advance=can_advance)
        return {action.name for action in SimicAction if legal_actions_of(seed)[action.value]}

    plantings = {f"GERMINATE_{family}" for family in ("CONV", "ATTENTION", "NORM", "DEPTHWISE")}
    assert legal(SeedStage.DORMANT) == {"WAIT", *plantings}
    assert legal(SeedStage.TRAINING) == legal(SeedStage.PROBATIONARY) == {"WAIT", "ADVANCE", "CULL"}
    assert legal(SeedStage.TRAINING, can_advance=False) == {"WAIT", "CULL"}
    assert legal(SeedStage.BLENDING) == {"WAIT", "CULL"}
    for stage in (SeedStage.FOSSILIZED, SeedStage.CULLED, SeedStage.EMBARGOED, SeedStage.RESETTING):
        assert legal(stage) == {"WAIT"}
    only = [SimicAction.GERMINATE_NORM]
    assert legal_actions_of(SeedStateReport("mid"), only) == [a.name in ("WAIT", "GERMINATE_NORM") for a in SimicAction]


def test_what_was_done_is_always_legal(run):
    found = read_dataset([run(course())])
    assert found.masks.gather(1, found.actions.unsqueeze(1)).all()


# ---- from settings to training


def test_a_training_follows_its_settings(run):
    folder = run(course())
    settings = IQLPolicyConfig(
        dataset=[str(folder)], features=27, steps=30, batch_size=4, gamma=0.9, tau=0.8, beta=2.0, hidden=[5],
        prioritized=True,
    )  # fmt: skip
    training = build_offline_training(settings, seed=4)
    model = training.model
    assert (model.state_dim, model.action_dim, model.gamma, model.tau, model.beta) == (27, 7, 0.9, 0.8, 2.0)
    assert (model.hidden, training.steps, training.batch_size, training.total) == ((5,), 30, 4, 1)
    assert float(training.transitions.rewards.std(correction=0)) == pytest.approx(1.0)
    raw = read_dataset([folder], 27).rewards
    torch.testing.assert_close(training.transitions.rewards, raw / raw.std(correction=0))
    again = build_offline_training(settings, seed=4)
    assert training.step() == again.step()


def test_rewards_that_are_all_alike_keep_their_scale(run):
    found = read_dataset([run(course())], 27, lambda before, after: 2.0)
    assert found.with_rewards_scaled().rewards.tolist() == [2.0] * 8


def test_without_runs_there_is_nothing_to_learn_from():
    with pytest.raises(ConfigError, match=r"policy\.dataset=\[\]: expected runs"):
        build_offline_training(IQLPolicyConfig())


@pytest.mark.parametrize(
    "wrong",
    [{"features": 54}, {"act_by": "luck"}, {"tau": 1.0}, {"gamma": 1.1}, {"beta": -1.0}, {"steps": 0}, {"hidden": []},
     {"hidden": [0]}, {"batch_size": 0}, {"learning_rate": 0.0}, {"blend": "cubic"},
     {"support": 1.5}],
)  # fmt: skip
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(ConfigError, match=rf"policy\.{next(iter(wrong))}="):
        IQLPolicyConfig(**wrong)


def test_settings_need_no_torch():
    code = "import sys, esper.simic.iql.config; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

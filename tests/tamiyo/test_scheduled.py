import json

import pytest

from esper.errors import BlueprintError, ConfigError
from esper.leyline import WAIT, Operation, SeedStage
from esper.tamiyo import FixedSchedule, ScheduledPolicyConfig

SLOTS = ("early", "mid", "late")


@pytest.fixture
def build(catalogue):
    return lambda **values: FixedSchedule(catalogue, SLOTS, ScheduledPolicyConfig(**values))


def one(controller, report):
    (action,) = controller.act([report])
    return action


def test_follows_the_timetable(build, report, seed):
    controller = build(blueprints=["norm", "conv_light"], blend="linear")
    training, probation = seed(SeedStage.TRAINING), seed(SeedStage.PROBATIONARY)
    assert one(controller, report(0)) == WAIT
    steps = [
        (1, {}, Operation.GERMINATE, "early", "norm"),
        (2, {"early": training}, Operation.GERMINATE, "mid", "conv_light"),
        (3, {"early": training, "mid": training}, Operation.GERMINATE, "late", "norm"),
        (4, {"early": training, "mid": training, "late": training}, Operation.ADVANCE, "early", ""),
        (5, {"early": probation, "mid": training, "late": training}, Operation.ADVANCE, "mid", ""),
        (10, {"early": probation, "mid": probation, "late": probation}, Operation.ADVANCE, "early", ""),
    ]
    for epoch, slots, operation, slot, blueprint in steps:
        action = one(controller, report(epoch, **slots))
        assert (action.operation, action.slot, action.blueprint) == (operation, slot, blueprint)
        assert action.reason
        if operation is Operation.GERMINATE:
            assert action.blend == "linear"


def test_what_coincides_is_done_one_epoch_later(build, report, seed):
    controller = build(plant_epochs=[2, 2, 2])
    training = seed(SeedStage.TRAINING)
    assert one(controller, report(1)).slot == "early"
    assert one(controller, report(2, early=training)).slot == "mid"
    assert one(controller, report(3, early=training, mid=training)).slot == "late"


def test_a_refused_advance_is_asked_again_after_the_others(build, report, seed):
    controller = build()
    training = seed(SeedStage.TRAINING)
    slots = dict.fromkeys(SLOTS, training)
    asked = [one(controller, report(epoch, **slots)).slot for epoch in range(4, 10)]
    assert asked == ["early", "mid", "late", "early", "mid", "late"]


def test_a_lost_seed_is_not_planted_again(build, report, seed):
    controller = build()
    assert one(controller, report(1)).slot == "early"
    fossil = seed(SeedStage.FOSSILIZED)
    assert one(controller, report(8, mid=fossil, late=fossil)) == WAIT


def test_members_keep_their_own_timetables_and_twins_wait(build, report, seed):
    controller = build()
    actions = controller.act([report(1, 0), report(1, 1), report(1, 2, is_twin=True), report(1, 3, retired=True)])
    assert [action.operation for action in actions] == [Operation.GERMINATE] * 2 + [Operation.WAIT] * 2


def test_continues_exactly_from_its_state(build, report, seed):
    slots = {name: seed(SeedStage.TRAINING) for name in SLOTS}
    first = build()
    one(first, report(4, **slots))
    state = json.loads(json.dumps(first.state_dict()))
    expected = [one(first, report(epoch, **slots)) for epoch in range(5, 9)]
    second = build()
    second.load_state_dict(state)
    assert [one(second, report(epoch, **slots)) for epoch in range(5, 9)] == expected
    assert second.state_dict() == first.state_dict()


def test_longer_timetables_fit_fewer_slots_and_shorter_ones_do_not(catalogue, report):
    controller = FixedSchedule(catalogue, ["late"])
    assert one(controller, report(1)).slot == "late"
    with pytest.raises(ConfigError, match=r"policy\.plant_epochs has 3 entries for 4 slots"):
        FixedSchedule(catalogue, ["block1", "block2", "block3", "block4"])


def test_a_blueprint_that_does_not_fit_the_host_is_named_with_the_nearest(catalogue):
    with pytest.raises(BlueprintError, match=r"policy\.blueprints: 'conv_lite'.*did you mean 'conv_light'"):
        FixedSchedule(catalogue, SLOTS, ScheduledPolicyConfig(blueprints=["conv_lite"]))
    with pytest.raises(BlueprintError, match="known here: norm, lora"):
        FixedSchedule([("norm", 128), ("lora", 900)], SLOTS)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"blend": "cubic"}, "policy.blend"),
        ({"blueprints": []}, "policy.blueprints"),
        ({"plant_epochs": [2]}, "policy.plant_epochs has 1"),
        ({"blend_epochs": [5, 3, 7]}, r"\[1\] = 3, 3, 12"),
        ({"plant_epochs": [0, 3, 4]}, "from 1 on"),
    ],
)
def test_a_wrong_value_is_named(values, key):
    with pytest.raises(ConfigError, match=key):
        ScheduledPolicyConfig(**values)

import json
from collections import Counter

import pytest

from esper.errors import ConfigError
from esper.leyline import WAIT, Operation, SeedStage
from esper.tamiyo import RandomController, RandomPolicyConfig, legal_actions


def key(action):
    return action.operation, action.slot, action.blueprint, action.blend


def draw(controller, report, members, epoch=3, **values):
    return controller.act([report(epoch, member, **values) for member in range(members)])


def test_acts_with_the_probability_asked_for(catalogue, report):
    for probability in (0.0, 0.25, 1.0):
        controller = RandomController(catalogue, RandomPolicyConfig(act_probability=probability))
        actions = draw(controller, report, 2000)
        assert sum(action != WAIT for action in actions) / 2000 == pytest.approx(probability, abs=0.04)


def test_draws_evenly_among_all_legal_actions(catalogue, report, seed):
    config = RandomPolicyConfig(act_probability=1.0, blends=["linear", "gated"])
    slots = {"early": seed(SeedStage.TRAINING), "mid": seed(SeedStage.BLENDING)}
    counts = Counter(map(key, draw(RandomController(catalogue, config), report, 6000, **slots)))
    legal = legal_actions(report(3, **slots), [name for name, _ in catalogue], config.blends)[1:]
    assert set(counts) == {key(action) for action in legal}
    even = 6000 / len(legal)
    assert all(abs(count - even) < 0.25 * even for count in counts.values())


def test_a_member_s_draws_do_not_depend_on_the_others(catalogue, report):
    controller = RandomController(catalogue, RandomPolicyConfig(act_probability=1.0), seed=4)
    many = draw(controller, report, 8)
    assert controller.act([report(3, 5)]) == [many[5]]
    assert len(set(many)) > 1
    assert draw(controller, report, 8, epoch=4) != many
    assert draw(RandomController(catalogue, RandomPolicyConfig(act_probability=1.0), seed=5), report, 8) != many


def test_twins_the_retired_and_the_finished_wait(catalogue, report, seed):
    controller = RandomController(catalogue, RandomPolicyConfig(act_probability=1.0))
    done = {name: seed(SeedStage.FOSSILIZED) for name in ("early", "mid", "late")}
    assert controller.act([report(is_twin=True), report(retired=True), report(**done)]) == [WAIT] * 3


def test_continues_exactly_from_its_state(catalogue, report):
    first = RandomController(catalogue, seed=7)
    draw(first, report, 4)
    second = RandomController(catalogue, seed=0)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [draw(second, report, 4, epoch) for epoch in range(4, 20)] == [
        draw(first, report, 4, epoch) for epoch in range(4, 20)
    ]


def test_every_deed_says_why(catalogue, report):
    actions = draw(RandomController(catalogue, RandomPolicyConfig(act_probability=1.0)), report, 5)
    assert all(action.reason and action.operation is Operation.GERMINATE for action in actions)


@pytest.mark.parametrize(
    "values", [{"act_probability": 1.5}, {"act_probability": float("nan")}, {"blends": []}, {"blends": ["cubic"]}]
)
def test_a_wrong_value_is_named(values):
    with pytest.raises(ConfigError, match=f"policy.{next(iter(values))}"):
        RandomPolicyConfig(**values)

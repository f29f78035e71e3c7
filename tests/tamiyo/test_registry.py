import json
import random
import subprocess
import sys

import pytest

from esper.errors import ConfigError
from esper.leyline import WAIT, SeedStage
from esper.simic.curriculum import BlueprintCurriculum
from esper.tamiyo import (
    POLICIES,
    HeuristicPolicyConfig,
    PolicyConfig,
    StaticController,
    build_controller,
    legal_actions,
)

SLOTS = ("early", "mid", "late")
BLENDS = ("linear", "sigmoid", "gated")


def key(action):
    return action.operation, action.slot, action.blueprint, action.blend


def any_seed(seed, draw):
    return seed(
        draw.choice(list(SeedStage)),
        alpha=draw.choice([0.0, 0.5, 1.0]),
        epochs_in_stage=draw.randrange(12),
        contribution=draw.choice([None, -3.0, 0.0, 4.0, float("nan")]),
        contribution_loss=draw.choice([None, -0.1, 0.1]),
        gradient_health=draw.random(),
        is_healthy=draw.random() < 0.9,
    )


@pytest.fixture
def chooser(catalogue):
    return BlueprintCurriculum(*zip(*catalogue, strict=True))


@pytest.mark.parametrize(
    "settings", [*(policy() for policy in POLICIES.values()), HeuristicPolicyConfig(curriculum=True)]
)
def test_every_policy_only_asks_for_what_is_legal_whatever_it_sees(settings, catalogue, chooser, report, seed):
    controller = build_controller(settings, catalogue, SLOTS, 1, chooser)
    blueprints = [blueprint for blueprint, _ in catalogue]
    draw = random.Random(0)
    acted = 0
    for epoch in range(300):
        reports = [
            report(
                epoch % 25,
                member,
                accuracy=draw.choice([draw.uniform(0, 100), float("nan")]),
                **{slot: any_seed(seed, draw) for slot in SLOTS},
                is_twin=member == 2,
                retired=member == 3 and epoch > 100,
            )
            for member in range(4)
        ]
        actions = controller.act(reports)
        assert len(actions) == 4 and actions[2] == WAIT
        for action, seen in zip(actions, reports, strict=True):
            assert key(action) in set(map(key, legal_actions(seen, blueprints, BLENDS)))
            assert action == WAIT or action.reason
            acted += action != WAIT
    assert (acted > 20) == (settings.name != "static")
    json.dumps(controller.state_dict(), allow_nan=False)


@pytest.mark.parametrize("name", POLICIES)
def test_settings_know_the_name_they_are_registered_under(name):
    assert POLICIES[name]().name == name


def test_static_never_acts(report):
    controller = StaticController()
    assert controller.act([report(epoch) for epoch in range(5)]) == [WAIT] * 5
    controller.load_state_dict(json.loads(json.dumps(controller.state_dict())))


def test_a_heuristic_s_curriculum_is_handed_in(catalogue, chooser, report):
    settings = HeuristicPolicyConfig(curriculum=True)
    chooser.record_outcome("norm", success=False, reward=0.0)
    (action,) = build_controller(settings, catalogue, SLOTS, 0, chooser).act([report(1)])
    assert action.blueprint == "attention"  # the simplest that is not known to be of no use
    with pytest.raises(ConfigError, match=r"policy\.curriculum=true"):
        build_controller(settings, catalogue, SLOTS)


def test_unknown_settings_name_what_there_is(catalogue):
    with pytest.raises(ConfigError, match=r"policy\.name='ppq'.*heuristic, random, scheduled, static"):
        build_controller(PolicyConfig(name="ppq"), catalogue, SLOTS)


def test_controllers_need_no_torch():
    code = "import sys, esper.tamiyo; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

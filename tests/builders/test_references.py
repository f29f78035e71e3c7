"""References are what the rules earn on the hosts that a policy begins to learn on, by the same reward."""

import numpy as np
import pytest

from esper.builders.population import build_environment, build_growth
from esper.builders.references import measure_references
from esper.config import compose
from esper.leyline import ActionLayout
from esper.tamiyo import HeuristicTamiyo

TINY = ["policy=ppo", "policy.members=4", "task.distortion=none", "task.image_size=8", "host.channels=[2,2]"]
TINY += ["slots=early_late", "gates=permissive", "epochs=10", "engine.kind=fused", "engine.threads=1"]


def earned(config, grown, is_static):
    """Mean return of the first two episodes of the policy's own environment, played by a rule."""
    config.engine.members, config.controls = 4, []
    env, _ = build_environment(config, grown.engine, grown.growth.task, ActionLayout(*layout(grown)))
    env.reset(seed=config.seed)
    rule = HeuristicTamiyo(grown.catalogue)
    total = np.zeros(4)
    for _ in range(config.epochs):
        wanted = [0] * 4 if is_static else [env.layout.number(action) for action in rule.act(env.epochs.reports()[0])]
        total += env.step(np.array(wanted))[1]
    return total[:2].mean()


def layout(grown):
    return tuple(grown.slots), tuple(name for name, _ in grown.catalogue), ("sigmoid",)


def test_references_are_the_returns_of_rules_in_the_policy_s_own_environment():
    config = compose(TINY)
    grown = build_growth(config)
    found = measure_references(config, grown, lambda: False)
    assert found == measure_references(config, grown, lambda: False)
    assert found["static_return"] == pytest.approx(earned(config, grown, is_static=True))
    assert found["heuristic_return"] == pytest.approx(earned(config, grown, is_static=False))
    assert found["heuristic_return"] != found["static_return"]


def test_nothing_is_measured_once_it_is_to_stop():
    config = compose(TINY)
    assert measure_references(config, build_growth(config), lambda: True) == {}

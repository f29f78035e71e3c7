"""References: what the heuristic and the static host earn where a policy learns, so that its return says something."""

from collections.abc import Callable
from dataclasses import replace

from esper.builders.population import Grown, build_environment
from esper.config.root import RunConfig
from esper.engine.environment import episode_seed
from esper.leyline import Controller
from esper.simic.on_policy.config import LearnedPolicyConfig
from esper.tamiyo import HeuristicPolicyConfig, HeuristicTamiyo
from esper.tamiyo.static import StaticController

MOST_HOSTS = 16  # of each rule; with the 32 that a policy learns on by default, as long as one of its updates


def measure_references(config: RunConfig, grown: Grown, is_stopped: Callable[[], bool]) -> dict[str, float]:
    """Mean undiscounted return of one episode a host, by rule, under the names of nissa.metric_names.

    The hosts are those of the policy's first episodes, at most half as many as it learns on, trained in one population
    and judged by the same reward. Every rank measures all of them. is_stopped: asked each epoch; nothing is measured
    then.
    """
    assert isinstance(config.policy, LearnedPolicyConfig)
    hosts = max(1, min(MOST_HOSTS, config.policy.members // 2))
    engine = replace(config.engine, members=2 * hosts)
    env, _ = build_environment(replace(config, engine=engine), grown.engine, grown.growth.task)
    own = HeuristicPolicyConfig(blending_epochs=config.slots.blending_epochs)
    rules: dict[str, Controller] = {
        "heuristic_return": HeuristicTamiyo(grown.catalogue, own),
        "static_return": StaticController(),
    }
    seeds = [episode_seed(config.seed, member, 0) for member in range(hosts)]
    env.growth.restart(range(2 * hosts), seeds * 2)
    (reports,) = env.epochs.reports()
    earned = [0.0] * len(reports)
    for _ in range(config.epochs):
        if is_stopped():
            return {}
        before = reports
        heuristic, static = rules.values()
        actions = [*heuristic.act(before[:hosts]), *static.act(before[hosts:])]
        ((reports, _),) = env.epochs.step([actions])
        for place, after in enumerate(reports):
            earned[place] += env.reward(before[place], after)
    return {name: sum(own) / hosts for name, own in zip(rules, (earned[:hosts], earned[hosts:]), strict=True)}

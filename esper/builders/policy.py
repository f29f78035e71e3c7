"""Policies that learn: the controllers that act by them, and what trains them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from torch import Tensor

from esper.builders.loading import load_learner, load_model
from esper.builders.own_controller import OwnController
from esper.builders.population import Grown, build_environment, check_enough
from esper.config.policy import RULES
from esper.config.root import RunConfig
from esper.engine.environment import GrowthVectorEnv
from esper.errors import LearnerError
from esper.leyline import ActionLayout, Controller
from esper.simic.curriculum import BlueprintCurriculum
from esper.simic.iql.config import OFFLINE_LEARNERS, IQLPolicyConfig
from esper.simic.iql.controller import IQLController
from esper.simic.iql.model import IQL
from esper.simic.on_policy.base import PolicyLearner
from esper.simic.on_policy.collector import evaluate
from esper.simic.on_policy.config import LEARNERS, LearnedPolicyConfig
from esper.simic.on_policy.controller import LearnedController
from esper.simic.on_policy.trainer import Training
from esper.simic.rewards.functions import build_reward
from esper.tamiyo import HeuristicPolicyConfig, PolicyConfig, build_controller
from esper.tamiyo.settings import Catalogue

VALIDATION_SEED = 20_000  # added to the run's: episodes that no update has seen


class PolicyTrainer(Protocol):
    """What a policy learns by, update by update."""

    update: int
    total: int

    @property
    def done(self) -> bool:
        """Whether there is nothing left to learn."""
        ...

    def step(self) -> dict[str, float]:
        """One update; its metrics by the names of nissa.metric_names."""
        ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that decides the updates to come."""
        ...

    def load_state(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        ...


class FrozenPolicy:
    """A policy that was learned elsewhere: nothing is left to learn, and checkpoints keep it all the same.

    name, prefix: under which its training would keep it.
    """

    update = total = 0
    done = True

    def __init__(self, policy: PolicyLearner | IQL, name: str, prefix: str) -> None:
        self.policy, self.name, self.prefix = policy, name, prefix

    def step(self) -> dict[str, float]:
        """There is no update to make."""
        raise LearnerError("This policy learns no more: policy.load and nothing to update.")

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The policy."""
        tensors, plain = self.policy.state()
        return {self.prefix + name: tensor for name, tensor in tensors.items()}, {self.name: plain}

    def load_state(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Act by what `state` kept."""
        own = {name.removeprefix(self.prefix): tensor for name, tensor in tensors.items()}
        self.policy.load_state(own, plain[self.name])


def build_policy(config: RunConfig, grown: Grown, is_resumed: bool = False) -> tuple[Controller, PolicyTrainer | None]:
    """Who decides in this run, and what it learns by before it does; None for a rule.

    is_resumed: a checkpoint holds the policy, which counts instead of what policy.load has become. Raises EsperError
    where a policy that is loaded fits neither the host nor the settings, or a dataset is unusable.
    """
    match config.policy:
        case LearnedPolicyConfig() as settings:
            return _acting(config, settings, grown, is_resumed)
        case IQLPolicyConfig() as settings:
            return _offline(config, settings, grown)
    chooser = build_curriculum(config.policy, grown.catalogue)
    controller = build_controller(config.policy, grown.catalogue, grown.slots, config.seed, chooser)
    if RULES.parts[config.policy.name].is_own:
        controller = OwnController(config.policy.name, controller)
    return controller, None


def build_curriculum(settings: PolicyConfig, catalogue: Catalogue) -> BlueprintCurriculum | None:
    """What chooses blueprints for a heuristic that asks for it: one for all members."""
    if not isinstance(settings, HeuristicPolicyConfig) or not settings.curriculum:
        return None
    names, parameters = zip(*catalogue, strict=True)
    return BlueprintCurriculum(names, parameters, settings.exploration_weight, settings.complexity_penalty)


def _acting(
    config: RunConfig, settings: LearnedPolicyConfig, grown: Grown, is_resumed: bool
) -> tuple[Controller, PolicyTrainer]:
    encoder, layout = grown.encoder(), grown.layout(settings.blends)
    learner = LEARNERS.build(settings, features=encoder.names, layout=layout, seed=config.seed, ranks=grown.ranks)
    if settings.load is not None and not is_resumed:
        load_learner(settings.load, learner, config, layout)
    controller = LearnedController(learner, encoder, layout, settings.deterministic, config.seed)
    if not settings.learns:
        return controller, FrozenPolicy(learner, "learner", "learner/")
    return controller, _training(config, settings, learner, grown, layout)


def _training(
    config: RunConfig, settings: LearnedPolicyConfig, learner: PolicyLearner, grown: Grown, layout: ActionLayout
) -> Training:
    def environment(key: str, members: int) -> GrowthVectorEnv:
        check_enough(key, members, grown.ranks)
        population = replace(config.engine, members=members)
        own = replace(config, engine=population)
        return build_environment(own, grown.engine, grown.growth.task, layout, ranks=grown.ranks)[0]

    training = environment("policy.members", settings.members)
    if not settings.validate_every:
        return Training(training, learner, settings, None, config.seed)
    held_out = environment("policy.validation_episodes", settings.validation_episodes)

    def validate(policy: PolicyLearner) -> float:
        seed = config.seed + VALIDATION_SEED
        seen = evaluate(held_out, policy, settings.validation_episodes, seed=seed, deterministic=settings.deterministic)
        return sum(episode.total_reward for episode in seen) / len(seen)

    return Training(training, learner, settings, validate, config.seed)


def _offline(config: RunConfig, settings: IQLPolicyConfig, grown: Grown) -> tuple[Controller, PolicyTrainer]:
    if settings.load is not None:
        model = load_model(settings.load)
        return IQLController(model, grown.catalogue, settings), FrozenPolicy(model, "model", "")
    training = OFFLINE_LEARNERS.build(settings, reward=build_reward(config.reward), seed=config.seed)
    return IQLController(training.model, grown.catalogue, settings), training

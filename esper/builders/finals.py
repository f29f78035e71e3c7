"""Final networks: what members have grown into, untrained, as a population of their own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from esper.builders.host import build_model
from esper.builders.population import PRECISIONS
from esper.config.root import RunConfig
from esper.engine.backends.base import Way
from esper.engine.governor import Governor
from esper.engine.growth import Growth
from esper.engine.population import build
from esper.engine.state.view import Members, split
from esper.kasmina import MorphogeneticModel, QualityGates
from esper.leyline import SeedStage
from esper.leyline.controls import BACKWARD, FINAL
from esper.tasks.task import named_generator

COUNTED = (SeedStage.BLENDING, SeedStage.PROBATIONARY, SeedStage.FOSSILIZED)  # seeds that an output depends on
_LIFE = (SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.PROBATIONARY, SeedStage.FOSSILIZED)


@dataclass(frozen=True, slots=True)
class FinalNetworks:
    """Of one run. growth: trains them; rows: the control and the grown member that each of them is of.

    A member that never grew has none: its final network is itself, and would be trained as it was.
    """

    growth: Growth
    rows: list[tuple[str, int]]


def build_finals(grown: Sequence[tuple[RunConfig, Growth]], engine: dict[str, object]) -> list[FinalNetworks | None]:
    """The final networks of runs whose growth has ended, in one population; None for a run that has none to train.

    Each is its member's host, with the weights that it began with, and in every slot whose seed the member's output
    depends on a seed of the same blueprint, wholly blended in from the first step on. Its weights are drawn anew as the
    blueprint draws them: a user who trains this network would have no other. engine: the choice that the runs were
    grown by.
    """
    rows = [
        [(control, member) for control in config.finals for member in range(growth.grown) if _has_grown(growth, member)]
        for config, growth in grown
    ]
    models = [
        _fresh(config, growth, member) for (config, growth), own in zip(grown, rows, strict=True) for _, member in own
    ]
    if not models:
        return [None] * len(grown)
    config, growth = grown[0]
    population = build(
        models,
        [config.optimizer.settings() for (config, _), own in zip(grown, rows, strict=True) for _ in own],
        Way(str(engine["kind"]), engine["memory_format"] == "channels_last"),
        PRECISIONS[config.engine.precision],
        growth.task.loss,
    )
    trained = [(*each, own) for each, own in zip(grown, rows, strict=True) if own]
    parts = iter(split(population, [len(own) for _, _, own in trained]))
    made = [
        FinalNetworks(_growth(config, growth, next(parts), own), own) if own else None
        for (config, growth), own in zip(grown, rows, strict=True)
    ]
    population.sync_topology()
    return made


def _has_grown(growth: Growth, member: int) -> bool:
    """Whether it ever was more, or was trained otherwise, than its twin."""
    report, model = growth.reports()[member], growth.population.models[member]
    seeds = [slot for slot in model.slots.values() if slot.seed is not None]
    alone = BACKWARD * growth.task.epoch_size * growth.epochs * report.flops_per_sample
    return bool(seeds or report.rollbacks) or not math.isclose(report.training_flops, alone)


def _fresh(config: RunConfig, growth: Growth, member: int) -> MorphogeneticModel:
    grown, population = growth.population.models[member], growth.population
    model = build_model(config, growth.task, member, population.device, population.dtype)
    model.is_users_own = grown.is_users_own
    return model


def _growth(config: RunConfig, grown: Growth, members: Members, rows: Sequence[tuple[str, int]]) -> Growth:
    for model, (_, member) in zip(members.models, rows, strict=True):
        for name, slot in grown.population.models[member].slots.items():
            if slot.state is not None and slot.stage in COUNTED:
                seed_id = f"final-m{member}-{name}"
                generator = named_generator(config.seed, f"seed/{seed_id}")
                state = model.germinate_seed(
                    slot.state.blueprint_id, seed_id, name, slot.state.blend_algorithm_id, generator
                )
                for stage in _LIFE:
                    state.transition(stage)
                model.slots[name].prune()
    steps = [
        _steps(grown, model, member) if control == FINAL else config.epochs * grown.steps_an_epoch
        for model, (control, member) in zip(members.models, rows, strict=True)
    ]
    return Growth(
        members,
        grown.task,
        QualityGates(config.gates),
        Governor(config.engine.governor),
        grown=len(rows),
        epochs=-(-max(steps) // grown.steps_an_epoch),
        batch_size=config.batch_size,
        blueprints=(),
        seed=config.seed,
        decay_share=config.optimizer.decay_share,
        steps=steps,
    )


def _steps(grown: Growth, model: MorphogeneticModel, member: int) -> int:
    """Minibatches that take the network the training FLOPs of the grown member, to the nearest; at least one."""
    task = grown.task
    samples = grown.reports()[member].training_flops / (BACKWARD * model.flops_per_sample(task.input_shape))
    epochs, rest = divmod(samples, task.epoch_size)
    return max(1, int(epochs) * grown.steps_an_epoch + round(rest / grown.batch_size))

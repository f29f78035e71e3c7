"""Whether an engine trains the networks it is given as plain PyTorch does: compared on copies, before it is used."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from esper.engine.backends.base import Way
from esper.engine.backends.differences import STEPS, TOLERANCES, Trained, differences
from esper.engine.backends.plain import PlainTraining, check_step, own_errors
from esper.engine.optimizer import OptimizerConfig
from esper.errors import EngineError
from esper.kasmina.copying import copy_network
from esper.kasmina.host import MorphogeneticModel
from esper.kasmina.python_state import (
    EXTRA_STATE,
    KEPT_DTYPES,
    check_structure,
    differing,
    fingerprints,
    shared_fingerprints,
    structure,
    unkept,
)
from esper.kasmina.seeding import undisturbed_streams
from esper.leyline import CROSS_ENTROPY, SeedStage

EXAMPLES = 8
_WEIGHT_SCALE = 0.2  # of what moves seeds' weights, which begin at zero


Build = Callable[[Sequence[MorphogeneticModel], Sequence[OptimizerConfig], Way, torch.dtype, str], Trained]


@dataclass(frozen=True, slots=True)
class Trial:
    """Networks, the optimizer of each, and a minibatch that ways of training them are tried on, with copies.

    x [B, ...], y [B, ...]; build: a population of models, configs, a way, a precision and a loss.
    """

    models: Sequence[MorphogeneticModel]
    configs: Sequence[OptimizerConfig]
    x: Tensor
    y: Tensor
    build: Build
    loss: str = CROSS_ENTROPY


def difference(trial: Trial, way: Way, blueprints: Sequence[str] = ()) -> str | None:
    """What this way would do otherwise than plain PyTorch, or None.

    blueprints: that may be planted, and are planted here. In float64 where the networks run in it, else in float32;
    networks of less cannot be compared (None). Raises EngineError where the networks' own training step fails, and lets
    errors of building the population pass.
    """
    models = trial.models
    with undisturbed_streams(trial.x.device):
        chosen = _chosen(models, blueprints)
        if not chosen:
            return None
        plain, x, y = _accurate([copy_network(models[index]) for index in chosen], trial.x, trial.y, trial.loss)
        dtype = _dtype(plain[0])
        if dtype not in TOLERANCES:
            return None
        _plant(plain, blueprints)
        own = [trial.configs[index] for index in chosen]
        population = trial.build([copy_network(model) for model in plain], own, way, dtype, trial.loss)
        reference = PlainTraining(plain, own, trial.loss)
        return next(differences(population, reference, x, y, TOLERANCES[dtype]), None)


def check_resumable(model: MorphogeneticModel, x: Tensor, y: Tensor, loss: str = CROSS_ENTROPY) -> None:
    """Raises EngineError where the network keeps what a checkpoint cannot hold, so that no run could go on with it.

    A copy is trained for a step and evaluated, to see what changes.
    """
    for name, tensor in (*model.host.named_parameters(), *model.host.named_buffers()):
        if tensor.dtype not in KEPT_DTYPES or tensor.layout is not torch.strided:
            what = model.host.in_own_words(name)
            raise EngineError(f"{what} is {tensor.dtype}, which a checkpoint cannot hold; keep it in another dtype")
    with own_errors(x), undisturbed_streams(x.device):
        plain = PlainTraining([copy_network(model)], [OptimizerConfig()], loss)
        copy = plain.models[0]
        before, made_of = fingerprints(copy), structure(copy)
        plain.backward(x, y)
        plain.evaluate(x, y)
        check_structure(copy, made_of)
        changed = [path for path in before if path.endswith(EXTRA_STATE)] + differing(before, fingerprints(copy))
        if lost := unkept(copy, changed):
            raise EngineError(
                f"{model.host.in_own_words(lost[0])} changes as the network runs, and a checkpoint cannot hold it; "
                "make it a buffer, a plain value, or part of what get_extra_state() gives (plain values and tensors)"
            )


def shared_writes(model: MorphogeneticModel, x: Tensor, y: Tensor, loss: str) -> list[str]:
    """What a training step and an evaluation write that all copies of a network share: on classes, in globals."""
    with undisturbed_streams(x.device):
        plain = PlainTraining([copy_network(model)], [OptimizerConfig()], loss)
        before = shared_fingerprints(plain.models[0])
        plain.backward(x, y)
        plain.evaluate(x, y)
        return differing(before, shared_fingerprints(plain.models[0]))


def _chosen(models: Sequence[MorphogeneticModel], blueprints: Sequence[str]) -> list[int]:
    """The first and the last whose weights are finite, and as many more copies as the blueprints need slots."""
    sound = [index for index, model in enumerate(models) if all(p.isfinite().all() for p in model.parameters())]
    ends = sorted({*sound[:1], *sound[-1:]})
    wanted = max(len(ends), -(-len(blueprints) // max(1, len(models[0].slots))))
    return list(itertools.islice(itertools.cycle(ends), wanted))


def _accurate(
    models: list[MorphogeneticModel], x: Tensor, y: Tensor, loss: str
) -> tuple[list[MorphogeneticModel], Tensor, Tensor]:
    """The networks and a few examples in float64, or as much of both as they run with.

    Some run on whole minibatches only, which their code has the size of.
    """
    error: EngineError | None = None
    for dtype in (torch.float64, None):
        for count in sorted({min(EXAMPLES, len(x)), len(x)}):
            few, targets = x[:count], y[:count]
            cast = models
            if dtype is not None:
                cast = [copy_network(model).double() for model in models]
                few, targets = (each.to(dtype) if each.is_floating_point() else each for each in (few, targets))
            if not models[0].is_users_own:
                return cast, few, targets
            try:
                check_step(cast[0], few, targets, loss)
                return cast, few, targets
            except EngineError as failed:
                error = failed
    assert error is not None
    raise error


def _dtype(model: MorphogeneticModel) -> torch.dtype:
    """The coarsest of the network."""
    dtypes = [tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()]
    return min(dtypes, key=lambda dtype: dtype.itemsize)


def _plant(models: Sequence[MorphogeneticModel], blueprints: Sequence[str]) -> None:
    """Each blueprint in a free slot, half blended in, its weights moved away from their start."""
    free = [(model, name) for model in models for name, slot in model.slots.items() if slot.state is None]
    generator = torch.Generator().manual_seed(0)
    for blueprint, (model, name) in zip(blueprints, free, strict=False):
        model.germinate_seed(blueprint, f"proof-{name}-{blueprint}", name, "linear", generator)
        slot = model.slots[name]
        assert slot.state is not None
        slot.state.transition(SeedStage.TRAINING)
        slot.start_blending(total_steps=2 * STEPS)
        slot.step(STEPS)
        with torch.no_grad():
            for parameter in slot.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(_WEIGHT_SCALE * noise.to(parameter))

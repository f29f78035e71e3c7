"""Whether an engine trains the networks it is given as plain PyTorch does: compared on copies, before it is used.

From the same state, two training steps and an evaluation: losses, gradients, parameters, buffers. Both optimizers are
fed the same gradients: where one is zero but for rounding, as that of a bias before a batch norm, AdamW makes whole
steps of it.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from esper.engine.backends.base import Backward, Engine, Way
from esper.engine.backends.plain import PlainTraining, check_step, own_errors
from esper.engine.fusion.blueprint_groups import row_roles
from esper.engine.optimizer import OptimizerConfig, StackedOptimizer, real
from esper.engine.stacks import HOST, ModuleStack
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
STEPS = 2
_FLOOR = 1e-3  # of the network's largest value: what is smaller than that part of it may be rounding
_WEIGHT_SCALE = 0.2  # of what moves seeds' weights, which begin at zero


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Share of a tensor's largest value, or of `floor` times the network's largest gradient where that is more.

    The gradient of a bias before a batch norm is nothing but the rounding of a long sum.
    """

    gradients: float
    values: float
    floor: float


TOLERANCES = {torch.float64: Tolerance(1e-7, 1e-7, 1e-3), torch.float32: Tolerance(1e-4, 1e-5, 1e-1)}


class Trained(Protocol):
    """A population, as far as a proof looks into it."""

    models: list[MorphogeneticModel]
    stacks: dict[str, ModuleStack]
    optimizer: StackedOptimizer
    engine: Engine
    version: int

    def standing(self) -> AbstractContextManager[None]:
        """See `Population.standing`."""
        ...


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
        return next(_differences(population, reference, x, y, TOLERANCES[dtype]), None)


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


def _differences(
    population: Trained, plain: PlainTraining, x: Tensor, y: Tensor, tolerance: Tolerance
) -> Iterator[str]:
    engine, members = population.engine, range(len(plain.models))
    for _ in range(STEPS):
        with population.standing():
            engine.prepare(1, population.version, seeds=[0 for _ in members])
            population.optimizer.begin_epoch(*row_roles(population.stacks, population.models))
            found = engine.backward(engine.to_layout(x.unsqueeze(0)), y.unsqueeze(0), 0)
            losses = plain.backward(x, y)
            if not all(loss.isfinite() for loss in losses):
                return  # it has diverged, and no two ways to compute agree on that
            yield from _unlike("loss", _numbered(losses), _numbered(found.losses), tolerance.values)
            for member in members:
                expected, got = _gradients(population, plain, found, member)
                where = f" in member {member}"
                yield from _unlike("gradient", expected, got, tolerance.gradients, where, tolerance.floor)
            population.optimizer.step(population.stacks, _same_gradients(population, plain, found), found.absent)
            plain.step()
            engine.finish(1)
            for stack in population.stacks.values():
                stack.adopt()
        for member in members:
            states = _state(plain.models[member]), _state(population.models[member])
            yield from _unlike("value", *states, tolerance.values, f" in member {member}")
    engine.prepare(1, population.version, training=False)
    evaluated, _ = engine.losses(engine.logits(engine.to_layout(x.unsqueeze(0)), {}), y.unsqueeze(0))
    expected = _numbered(plain.evaluate(x, y))
    yield from _unlike("loss in evaluation", expected, _numbered(evaluated), tolerance.values)


def _numbered(losses: Iterable[Tensor]) -> dict[str, Tensor]:
    return {f"member {member}": loss for member, loss in enumerate(losses)}


def _rows(population: Trained, member: int) -> Iterator[tuple[str, str, int]]:
    """(stack, parameter, row) of all that a member has."""
    for name, stack in population.stacks.items():
        if member in stack.members:
            yield from ((name, parameter, stack.row_of(member)) for parameter in stack.parameters)


def _parameter(model: MorphogeneticModel, stack: str, name: str) -> nn.Parameter:
    """What a stack holds a row of, in the model itself."""
    if stack == HOST:
        return dict(model.host.named_parameters())[name]
    _, slot, kind = stack.split(".", 2)
    part = model.slots[slot].gate if kind == "gate" else model.slots[slot].seed
    assert part is not None
    return dict(part.named_parameters())[name]


def _gradients(
    population: Trained, plain: PlainTraining, found: Backward, member: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients of what takes part, plain and found; one that takes part on one side alone is zero on the other."""
    expected, got = {}, {}
    for stack, name, row in _rows(population, member):
        parameter, label = _parameter(plain.models[member], stack, name), name if stack == HOST else f"{stack}.{name}"
        stacked = found.gradients.get(stack, {}).get(name)
        is_absent = stacked is None or row in found.absent.get(stack, {}).get(name, ())
        if parameter.grad is not None or not is_absent:
            zero = torch.zeros_like(parameter)
            expected[label] = zero if parameter.grad is None else parameter.grad.to_dense()
            got[label] = zero if is_absent or stacked is None else stacked[row]
    return expected, got


def _same_gradients(population: Trained, plain: PlainTraining, found: Backward) -> dict[str, dict[str, Tensor]]:
    """The plain networks' gradients, for what the engine found to take part."""

    def of(member: int, stack: str, name: str) -> Tensor:
        parameter = _parameter(plain.models[member], stack, name)
        return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.to_dense()

    return {
        stack: {
            name: torch.stack([of(member, stack, name) for member in population.stacks[stack].members])
            for name in named
        }
        for stack, named in found.gradients.items()
    }


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def _unlike(
    what: str,
    expected: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    tolerance: float,
    where: str = "",
    floor: float = _FLOOR,
) -> Iterator[str]:
    """A sentence for each of these tensors that is not as expected."""
    if expected.keys() != found.keys():
        yield f"other tensors{where}: {', '.join(expected.keys() ^ found.keys())}"
        return
    largest = {name: _largest(tensor) for name, tensor in expected.items()}
    least = floor * max(largest.values(), default=0.0)
    for name, tensor in expected.items():
        one, other = (real(each).double() for each in (tensor, found[name]))
        is_same = (one == other) | (one.isnan() & other.isnan())
        errors = torch.where(is_same, 0.0, one - other)
        error = _largest(errors)
        if not (errors.isfinite().all() and error <= tolerance * max(largest[name], least)):
            yield f"{what} of {name}{where} is off by {error:.1e} of {largest[name]:.1e}"


def _largest(tensor: Tensor) -> float:
    return float(real(tensor).double().nan_to_num(0.0, 0.0, 0.0).abs().max()) if tensor.numel() else 0.0

"""Differences between an engine and plain PyTorch: from the same state, two training steps and an evaluation.

Losses, gradients, parameters, buffers. Both optimizers are fed the same gradients: where one is zero but for rounding,
as that of a bias before a batch norm, AdamW makes whole steps of it.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from esper.engine.backends.base import Backward, Engine
from esper.engine.backends.plain import PlainTraining
from esper.engine.fusion.blueprint_groups import row_roles
from esper.engine.optimizer import StackedOptimizer, real
from esper.engine.stacks import HOST, ModuleStack
from esper.kasmina.host import MorphogeneticModel

STEPS = 2
_FLOOR = 1e-3  # of the network's largest value: what is smaller than that part of it may be rounding


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

    @property
    def version(self) -> int:
        """Of the stacks."""
        ...

    def standing(self) -> AbstractContextManager[object]:
        """See `Population.standing`."""
        ...


def differences(population: Trained, plain: PlainTraining, x: Tensor, y: Tensor, tolerance: Tolerance) -> Iterator[str]:
    """A sentence for each; both are trained. x [B, ...], y [B, ...]; none are found in what has diverged."""
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

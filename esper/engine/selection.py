"""Fused or one by one: decided at the start of a run by a proof and a measurement, and kept from then on."""

import functools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from esper.engine import native
from esper.engine.fused import host_program, make_layout
from esper.engine.optimizer import OptimizerConfig
from esper.engine.plain import check_step
from esper.engine.program import Program
from esper.engine.proof import Trained, difference
from esper.errors import EngineError, first_line
from esper.kasmina.blueprints import BlueprintRegistry
from esper.kasmina.copying import copy_network
from esper.kasmina.host import MorphogeneticModel
from esper.kasmina.seeding import undisturbed_streams, weights_from

FUSED, SEQUENTIAL = KINDS = ("fused", "sequential")
REPEATS = 5
ENOUGH_S = 0.5  # of measuring one way
HOPELESS = 4.0  # times the fastest way so far

_proven: set[object] = set()  # hosts of esper's own that were compared already


class Build(Protocol):
    """Makes a population of these models on an engine."""

    def __call__(
        self,
        models: Sequence[MorphogeneticModel],
        configs: Sequence[OptimizerConfig],
        kind: str,
        precision: torch.dtype,
        is_channels_last: bool,
    ) -> Trained: ...


@dataclass(frozen=True, slots=True)
class Way:
    """How members are trained: on which engine, and how images lie where they train one by one."""

    kind: str
    is_channels_last: bool = False

    def __str__(self) -> str:
        return f"{self.kind}{', channels_last' if self.is_channels_last else ''}"


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, on how many threads, and why."""

    way: Way
    threads: int
    reason: str


def choose(
    models: Sequence[MorphogeneticModel],
    configs: Sequence[OptimizerConfig],
    x: Tensor,
    y: Tensor,
    build: Build,
    precision: torch.dtype = torch.float32,
    kind: str | None = None,
    thread_counts: Sequence[int] = (),
    is_channels_last: bool | None = None,
    blueprints: Sequence[str] = (),
) -> Choice:
    """The fastest way to train these networks among those that train them as plain PyTorch does.

    x, y: one minibatch, which copies are trained on. kind: "fused", "sequential" or None for either. thread_counts: to
    choose from (none: torch's present one). is_channels_last: None for either, where both are sound. blueprints: that
    may be planted. Nothing of the models changes, and torch
    keeps its number of threads. Raises EngineError where `kind` is not possible, or a training step itself fails.
    """
    if models[0].host.has_python_state:
        check_step(models[0], x, y)
    ways, reasons = [], []
    if kind != SEQUENTIAL:
        reason = _why_not_fused(models, configs, x, y, build, blueprints)
        if reason is None:
            ways.append(Way(FUSED))
        elif kind == FUSED:
            raise EngineError(_refused(reason))
        else:
            reasons.append(reason)
    if kind != FUSED:
        formats = [False, True] if is_channels_last is None else [is_channels_last]
        if True in formats and not _is_sound_channels_last(models):
            if is_channels_last:
                raise EngineError("channels_last is not sound for this network's convolutions: torch may crash in it")
            formats = [False]
        ways += [Way(SEQUENTIAL, each) for each in formats]
    counts = list(thread_counts) or [torch.get_num_threads()]
    times: dict[tuple[Way, int], float] = {(way, counts[0]): 0.0 for way in ways}
    if len(ways) * len(counts) > 1:
        times = _measure(models, configs, x, y, build, precision, ways, counts)
        reasons += [f"{way}, {count} threads: {1e3 * s:.2f} ms a step" for (way, count), s in times.items()]
    unlike = ""
    for way, threads in sorted(times, key=times.__getitem__):
        # Of one by one, memory formats may differ, too: in the order in which layers draw.
        found = None if way.kind == FUSED else _why_not_sequential(models, configs, x, y, build, way)
        if found is None:
            return Choice(way, threads, "; ".join(reasons) or "as configured")
        unlike = unlike or found
    raise EngineError(unlike)


def check(
    kind: str,
    models: Sequence[MorphogeneticModel],
    configs: Sequence[OptimizerConfig],
    x: Tensor,
    y: Tensor,
    build: Build,
) -> None:
    """Raises EngineError where an engine of this kind does not train these networks as plain PyTorch does."""
    if models[0].host.has_python_state:
        check_step(models[0], x, y)
    if kind == SEQUENTIAL:
        reason = _why_not_sequential(models, configs, x, y, build, Way(SEQUENTIAL))
        if reason is not None:
            raise EngineError(reason)
    elif reason := _why_not_fused(models, configs, x, y, build):
        raise EngineError(_refused(reason))


def _refused(reason: str) -> str:
    return f"engine.kind=fused: {reason}; use engine.kind=sequential"


def _why_not_fused(
    models: Sequence[MorphogeneticModel],
    configs: Sequence[OptimizerConfig],
    x: Tensor,
    y: Tensor,
    build: Build,
    blueprints: Sequence[str] = (),
) -> str | None:
    """What a trace sees, or a comparison shows, that fusing would change; None where it may be used."""
    host = models[0].host
    shapes = tuple((name, tuple(tensor.shape)) for name, tensor in host.named_parameters())
    case = (type(host), shapes, x.shape[1:], configs[0].name, tuple(blueprints), x.device, native.applies(x))
    is_known = not host.has_python_state and all(
        slot.state is None for model in models for slot in model.slots.values()
    )
    try:
        _check_traceable(models, blueprints)
        if is_known and case in _proven:
            return None
        plain = functools.partial(build, kind=FUSED, is_channels_last=False)
        found = difference(
            models, configs, x, y, lambda copies, own, dtype: plain(copies, own, precision=dtype), blueprints
        )
    except EngineError as error:
        return str(error)
    except Exception as error:  # networks of any make are looked into here
        return f"{type(error).__name__}: {first_line(error)}"
    if found is not None:
        return f"fused, the network is not what plain PyTorch trains: {host.in_own_words(found)}"
    if is_known:
        _proven.add(case)
    return None


def _check_traceable(models: Sequence[MorphogeneticModel], blueprints: Sequence[str]) -> None:
    """Raises EngineError where a host, or a seed that may be planted, could not be fused."""
    host = models[0].host
    layout = make_layout(host.topology)
    host_program(models, layout)
    with weights_from(torch.Generator()):  # the weights do not matter
        for name in blueprints:
            for channels in set(host.injection_points.values()):
                Program(BlueprintRegistry.create(host.topology, name, channels), layout)


def _why_not_sequential(
    models: Sequence[MorphogeneticModel],
    configs: Sequence[OptimizerConfig],
    x: Tensor,
    y: Tensor,
    build: Build,
    way: Way,
) -> str | None:
    """What even training one by one would change in these networks, or None."""
    if not models[0].host.has_python_state:
        return None

    def on_the_engine(
        copies: Sequence[MorphogeneticModel], own: Sequence[OptimizerConfig], dtype: torch.dtype
    ) -> Trained:
        return build(copies, own, way.kind, dtype, way.is_channels_last)

    try:
        found = difference(models, configs, x, y, on_the_engine)
        if found is None or found != difference(models, configs, x, y, on_the_engine):
            return None  # or the network gives other figures each time, and cannot be compared
    except EngineError as error:
        return str(error)
    except Exception as error:  # networks of any make are looked into here
        return f"{type(error).__name__}: {first_line(error)}"
    own = models[0].host.in_own_words(found)
    return f"this network cannot be trained here as plain PyTorch trains it: {own}"


def _is_sound_channels_last(models: Sequence[MorphogeneticModel]) -> bool:
    """Whether every convolution is of a kind that is known to be sound in channels_last.

    torch 2.13 corrupts memory in the backward pass of some strided ones on a CPU (Conv2d(4, 8, 1, stride=2)).
    """
    layers = [part for part in models[0].modules() if isinstance(part, nn.modules.conv._ConvNd)]
    return bool(layers) and all(
        type(layer) is nn.Conv2d and layer.stride == layer.dilation == (1, 1) and layer.padding_mode == "zeros"
        for layer in layers
    )


def _measure(
    models: Sequence[MorphogeneticModel],
    configs: Sequence[OptimizerConfig],
    x: Tensor,
    y: Tensor,
    build: Build,
    precision: torch.dtype,
    ways: Sequence[Way],
    thread_counts: Sequence[int],
) -> dict[tuple[Way, int], float]:
    """Seconds a step of each way on each number of threads."""
    before = torch.get_num_threads()
    times: dict[tuple[Way, int], float] = {}
    copies = [copy_network(model) for model in models]
    try:
        with undisturbed_streams(x.device):
            for way in ways:
                population = build(copies, configs, way.kind, precision, way.is_channels_last)
                engine = population.engine
                engine.prepare(1, population.version, seeds=[0] * len(models))
                step = functools.partial(engine.backward, engine.lay(x.unsqueeze(0)), y.unsqueeze(0), 0)
                for threads in thread_counts:
                    torch.set_num_threads(threads)
                    times[way, threads] = _seconds(step, HOPELESS * min(times.values(), default=math.inf))
    except EngineError:
        raise
    except Exception as error:  # code of any make runs here
        raise EngineError(f"a training step fails on {list(x.shape)}: {first_line(error)}") from error
    finally:
        torch.set_num_threads(before)
    return times


def _seconds(step: Callable[[], object], enough_s: float) -> float:
    """The median of some repetitions: what else the machine does belongs to it. One that takes too long is the last."""
    taken: list[float] = []
    for turn in range(REPEATS + 1):
        started = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
        if taken[-1] > enough_s or (turn > 1 and sum(taken) > ENOUGH_S):
            break
    return statistics.median(taken[1:] or taken)  # at first memory is allocated and code loaded


def thread_counts(threads: int | None, device: torch.device) -> list[int]:
    """Numbers of threads to choose from; threads: what was asked for."""
    if threads is not None:
        return [threads]
    return sorted({1, torch.get_num_threads()}) if device.type == "cpu" else [torch.get_num_threads()]

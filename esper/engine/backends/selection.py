"""Fused or one by one: decided at the start of a run by a proof and a measurement, and kept from then on."""

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from esper.engine.backends.base import FUSED, SEQUENTIAL, Way
from esper.engine.backends.plain import check_step, own_errors
from esper.engine.backends.proof import Trial, difference, shared_writes
from esper.engine.fusion.host_program import host_program, make_layout
from esper.engine.fusion.tracing import Program
from esper.engine.kernels import native
from esper.errors import EngineError, first_line
from esper.kasmina.copying import copy_network
from esper.kasmina.host import MorphogeneticModel
from esper.kasmina.python_state import KEEP_APART
from esper.kasmina.seeding import undisturbed_streams

REPEATS = 7
ENOUGH_S = 1.0  # of measuring the fastest in turn
SHORT_S = 0.05
CONTENDERS = 2.0  # times the fastest at the first try

_proven: set[object] = set()  # hosts of esper's own that were compared already


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, on how many threads, and why."""

    way: Way
    threads: int
    reason: str


def choose(
    trial: Trial,
    precision: torch.dtype = torch.float32,
    kind: str | None = None,
    thread_counts: Sequence[int] = (),
    is_channels_last: bool | None = None,
    blueprints: Sequence[str] = (),
) -> Choice:
    """The fastest way to train these networks among those that train them as plain PyTorch does.

    kind: "fused", "sequential" or None for either. thread_counts: to choose from (none: torch's present one).
    is_channels_last: None for either, where both are sound. blueprints: that may be planted. Nothing of the models
    changes, and torch keeps its number of threads. Raises EngineError where what is asked for is not possible, or a
    training step itself fails.
    """
    if trial.models[0].is_users_own:
        check_step(trial.models[0], trial.x, trial.y, trial.loss)
    ways, reasons = [], []
    if kind != SEQUENTIAL:
        reason = _why_not_fused(trial, blueprints)
        if reason is None:
            ways.append(Way(FUSED))
        elif kind == FUSED:
            raise EngineError(f"engine.kind=fused: {reason}; use engine.kind=sequential")
        else:
            reasons.append(reason)
    if kind != FUSED:
        ways += [Way(SEQUENTIAL, each) for each in _formats(trial.models, is_channels_last)]
    counts = list(thread_counts) or [torch.get_num_threads()]
    times: dict[tuple[Way, int], float] = {(way, counts[0]): 0.0 for way in ways}
    if len(ways) * len(counts) > 1:
        times = _measure(trial, precision, ways, counts)
        reasons += [f"{way}, {count} threads: {1e3 * s:.2f} ms a step" for (way, count), s in times.items()]
    unlike = ""
    for way, threads in sorted(times, key=times.__getitem__):
        # Of one by one, memory formats may differ, too: in the order in which layers draw.
        found = None if way.kind == FUSED else _why_not_sequential(trial, way)
        if found is None:
            return Choice(way, threads, "; ".join(reasons) or "as configured")
        unlike = unlike or found
    raise EngineError(unlike)


def _formats(models: Sequence[MorphogeneticModel], is_channels_last: bool | None) -> list[bool]:
    if is_channels_last is False or _is_sound_channels_last(models):
        return [False, True] if is_channels_last is None else [is_channels_last]
    if is_channels_last:
        raise EngineError("channels_last is not sound for this network's convolutions: torch may crash in it")
    return [False]


def _why_not_fused(trial: Trial, blueprints: Sequence[str]) -> str | None:
    """What a trace sees, or a comparison shows, that fusing would change; None where it may be used."""
    models, host = trial.models, trial.models[0].host
    shapes = tuple((name, tuple(tensor.shape)) for name, tensor in host.named_parameters())
    optimizer, x = trial.configs[0].name, trial.x
    case = (type(host), shapes, x.shape[1:], optimizer, tuple(blueprints), x.device, native.is_supported(x), trial.loss)
    is_known = not models[0].is_users_own and all(slot.state is None for one in models for slot in one.slots.values())
    try:
        _check_traceable(models, blueprints)
        if is_known and case in _proven:
            return None
        found = difference(trial, Way(FUSED), blueprints)
    except EngineError as error:
        return trial.models[0].host.in_own_words(str(error))
    except Exception as error:  # networks of any make are looked into here
        return f"{type(error).__name__}: {first_line(error)}"
    if found is not None:
        return f"fused, the network is not what plain PyTorch trains: {host.in_own_words(found)}"
    if is_known:
        _proven.add(case)
    return None


def _why_not_sequential(trial: Trial, way: Way) -> str | None:
    """What even training one by one would change in these networks, or None."""
    if not trial.models[0].is_users_own:
        return None
    try:
        found = difference(trial, way)
        if found is not None and (written := shared_writes(trial.models[0], trial.x, trial.y, trial.loss)):
            return f"{written[0]} changes as the network runs, and what it computes with it; {KEEP_APART}"
        if found is None or found != difference(trial, way):
            return None  # or the network gives other figures each time, and cannot be compared
    except EngineError as error:
        return trial.models[0].host.in_own_words(str(error))
    except Exception as error:  # networks of any make are looked into here
        return f"{type(error).__name__}: {first_line(error)}"
    own = trial.models[0].host.in_own_words(found)
    return f"this network cannot be trained here as plain PyTorch trains it: {own}"


def _check_traceable(models: Sequence[MorphogeneticModel], blueprints: Sequence[str]) -> None:
    """Raises EngineError where a host, or a seed that may be planted, could not be fused."""
    host = models[0].host
    layout = make_layout(host.topology)
    host_program(models, layout)
    slots = {slot.channels: slot for slot in models[0].slots.values()}
    for name, slot in itertools.product(blueprints, slots.values()):
        Program(slot.try_blueprint(name, host.topology), layout)


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
    trial: Trial, precision: torch.dtype, ways: Sequence[Way], thread_counts: Sequence[int]
) -> dict[tuple[Way, int], float]:
    """Seconds a step of each way on each number of threads.

    All are tried once; the fastest then take turns, so that a moment in which the machine does something else, too,
    meets them alike.
    """
    x, y, before = trial.x, trial.y, torch.get_num_threads()
    taken: dict[tuple[Way, int], list[float]] = {}
    steps: dict[Way, Callable[[], object]] = {}

    def measure(way: Way, threads: int) -> float:
        torch.set_num_threads(threads)
        steps[way]()  # memory is allocated, threads start
        return _seconds(steps[way])

    try:
        with own_errors(x), undisturbed_streams(x.device):
            for way in ways:
                copies = [copy_network(model) for model in trial.models]  # of its own: ways lay weights out differently
                population = trial.build(copies, trial.configs, way, precision, trial.loss)
                engine = population.engine
                engine.prepare(1, population.version, seeds=[0] * len(copies))
                steps[way] = functools.partial(engine.backward, engine.to_layout(x.unsqueeze(0)), y.unsqueeze(0), 0)
                for threads in thread_counts:
                    taken[way, threads] = [measure(way, threads)]
            fastest = min(seconds for (seconds,) in taken.values())
            near = [case for case, (seconds,) in taken.items() if seconds < CONTENDERS * fastest]
            started = time.perf_counter()
            while len(near) > 1 and len(taken[near[0]]) < REPEATS and time.perf_counter() - started < ENOUGH_S:
                for case in near:
                    taken[case].append(measure(*case))
    finally:
        torch.set_num_threads(before)
    return {case: statistics.median(seconds) for case, seconds in taken.items()}


def _seconds(step: Callable[[], object]) -> float:
    """The median of three steps, or of fewer that take long: what else the machine does belongs to it."""
    taken: list[float] = []
    while len(taken) < 3 and sum(taken) < SHORT_S:
        started = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def thread_counts(threads: int | None, device: torch.device) -> list[int]:
    """Numbers of threads to choose from; threads: what was asked for."""
    if threads is not None:
        return [threads]
    return sorted({1, torch.get_num_threads()}) if device.type == "cpu" else [torch.get_num_threads()]

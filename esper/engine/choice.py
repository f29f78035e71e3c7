"""Fused or one by one: decided by a measurement at the start of a run, and kept from then on."""

import functools
import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from esper.engine.fused import make_layout
from esper.engine.optimizer import OptimizerConfig
from esper.engine.population import Population
from esper.engine.program import Program
from esper.engine.stacks import HOST
from esper.errors import EngineError
from esper.kasmina.blueprints import BlueprintRegistry
from esper.kasmina.host import MorphogeneticModel
from esper.kasmina.seeding import weights_from

REPEATS = 4
HOPELESS = 4.0  # times the fastest way so far


def choose_engine(
    models: Sequence[MorphogeneticModel],
    optimizer: OptimizerConfig | Sequence[OptimizerConfig],
    x: Tensor,
    y: Tensor,
    precision: torch.dtype = torch.float32,
    kind: str = "auto",
    threads: int | None = None,
    blueprints: Sequence[str] = (),
) -> tuple[Population, str]:
    """The population on the faster engine, and why. Inputs x, targets y: one minibatch, trained on for time alone.

    kind: "fused" or "sequential" is taken as it is, "auto" is measured. threads: None is measured too, and torch is set
    to the better of one and what it had. blueprints: that may be planted. Raises EngineError if "fused" is asked for
    and a layer of host or blueprints forbids it.
    """
    try:
        population = Population(models, optimizer, "sequential" if kind == "sequential" else "fused", precision)
        if kind != "sequential":
            _check_blueprints(models[0], blueprints)
    except EngineError as error:
        if kind == "fused":
            raise EngineError(f"engine.kind=fused: {error}; use engine.kind=sequential") from error
        return Population(models, optimizer, "sequential", precision), str(error)
    kinds = ("fused", "sequential") if kind == "auto" else (kind,)
    counts = _thread_counts(threads, population.device)
    if len(kinds) * len(counts) == 1:
        torch.set_num_threads(counts[0])
        return population, "as configured"
    times: dict[tuple[str, int], float] = {}
    for tried in kinds:
        population = Population(models, optimizer, tried, precision)
        times |= _measure(population, counts, x, y, HOPELESS * min(times.values(), default=math.inf))
    best_kind, best_threads = min(times, key=times.__getitem__)
    torch.set_num_threads(best_threads)
    if population.engine.kind != best_kind:
        population = Population(models, optimizer, best_kind, precision)
    return population, "; ".join(f"{k}, {t} threads: {1e3 * s:.2f} ms a step" for (k, t), s in times.items())


def _check_blueprints(model: MorphogeneticModel, blueprints: Sequence[str]) -> None:
    """Raises EngineError where a seed could not be fused: better now than in the middle of a run."""
    layout = make_layout(model.host.topology)
    with weights_from(torch.Generator()):  # the weights do not matter, and torch's global stream must not move
        for name in blueprints:
            for channels in set(model.host.injection_points.values()):
                Program(BlueprintRegistry.create(model.host.topology, name, channels), layout)


def _thread_counts(threads: int | None, device: torch.device) -> list[int]:
    if threads is not None:
        return [threads]
    return sorted({1, torch.get_num_threads()}) if device.type == "cpu" else [torch.get_num_threads()]


def _measure(
    population: Population, thread_counts: Sequence[int], x: Tensor, y: Tensor, enough_s: float
) -> dict[tuple[str, int], float]:
    """Seconds a step on each number of threads; the members are left as they were."""
    engine, host = population.engine, population.stacks[HOST].buffers
    before = {name: buffer.clone() for name, buffer in host.items()}
    engine.prepare(1, population.version, seeds=[0] * len(population))
    xb, yb = engine.lay(x.unsqueeze(0)), y.unsqueeze(0)
    times: dict[tuple[str, int], float] = {}
    for threads in thread_counts:
        torch.set_num_threads(threads)
        seconds = _seconds(functools.partial(engine.gradients, xb, yb, 0), enough_s)
        times[engine.kind, threads] = seconds
        enough_s = min(enough_s, HOPELESS * seconds)
    for name, buffer in before.items():
        host[name].copy_(buffer)
    return times


def _seconds(step: Callable[[], object], enough_s: float) -> float:
    """The fastest of some repetitions: what else the machine does can only add. One that takes longer is the last."""
    fastest = math.inf
    for _ in range(REPEATS):
        started = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken = time.perf_counter() - started
        fastest = min(fastest, taken)
        if taken > enough_s:
            break
    return fastest

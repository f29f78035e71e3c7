"""Fused or one by one: decided by a measurement at the start of a run, and kept from then on."""

import functools
import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from esper.engine.optimizer import OptimizerConfig
from esper.engine.population import Population
from esper.engine.stacks import HOST
from esper.errors import EngineError
from esper.kasmina.host import MorphogeneticModel

REPEATS = 4
HOPELESS = 4.0  # times the fastest way so far


def choose_engine(
    models: Sequence[MorphogeneticModel],
    optimizer: OptimizerConfig,
    x: Tensor,
    y: Tensor,
    precision: torch.dtype = torch.float32,
    kind: str = "auto",
    threads: int | None = None,
) -> tuple[Population, str]:
    """The population on the faster engine, and why. x [N, C, H, W], y [N]: one minibatch, trained on for time alone.

    kind: "fused" or "sequential" is taken as it is, "auto" is measured. threads: None is measured too, and torch is set
    to the better of one and what it had. Raises EngineError if "fused" is asked for and a layer forbids it.
    """
    try:
        population = Population(models, optimizer, "sequential" if kind == "sequential" else "fused", precision)
    except EngineError as error:
        if kind == "fused":
            raise EngineError(f"engine.kind=fused: {error}; use engine.kind=sequential") from error
        return Population(models, optimizer, "sequential"), str(error)
    kinds = ("fused", "sequential") if kind == "auto" else (kind,)
    times = _measure(population, kinds, _thread_counts(threads, population.device), x, y)
    best_kind, best_threads = min(times, key=times.__getitem__)
    torch.set_num_threads(best_threads)
    reason = "; ".join(f"{k}, {t} threads: {1e3 * s:.2f} ms a step" for (k, t), s in times.items())
    if population.engine.kind != best_kind:
        population.engine = population.make_engine(best_kind, precision)
    return population, reason


def _thread_counts(threads: int | None, device: torch.device) -> list[int]:
    if threads is not None:
        return [threads]
    return sorted({1, torch.get_num_threads()}) if device.type == "cpu" else [torch.get_num_threads()]


def _measure(
    population: Population, kinds: Sequence[str], thread_counts: Sequence[int], x: Tensor, y: Tensor
) -> dict[tuple[str, int], float]:
    """Seconds a step of each way to train; the population is left as it was."""
    host = population.stacks[HOST].buffers
    before = {name: buffer.clone() for name, buffer in host.items()}
    times: dict[tuple[str, int], float] = {}
    for kind in kinds:
        engine = population.engine if population.engine.kind == kind else population.make_engine(kind)
        engine.prepare(1, population.version)
        ((xb, yb),) = engine.batches(x, y, len(y))
        for threads in thread_counts:
            torch.set_num_threads(threads)
            enough_s = HOPELESS * min(times.values(), default=math.inf)
            times[kind, threads] = _seconds(functools.partial(engine.gradients, xb, yb, 0), enough_s)
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

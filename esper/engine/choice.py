"""Fused or one by one: decided by a measurement at the start of a run, and kept from then on."""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from esper.engine import native
from esper.engine.optimizer import OptimizerConfig
from esper.engine.population import Population
from esper.errors import EngineError
from esper.kasmina.host import MorphogeneticModel

REPEATS = 5


def choose_engine(
    models: Sequence[MorphogeneticModel],
    optimizer: OptimizerConfig,
    x: Tensor,
    y: Tensor,
    precision: torch.dtype = torch.float32,
    kind: str = "auto",
) -> tuple[Population, str]:
    """The population on the faster engine, and why. x [N, C, H, W], y [N]: one minibatch, trained on for time alone.

    kind "fused" or "sequential" is taken as it is. Raises EngineError if "fused" is asked for and a layer forbids it.
    """
    if kind == "sequential":
        return Population(models, optimizer, kind), "as configured"
    try:
        fused = Population(models, optimizer, "fused", precision)
    except EngineError as error:
        if kind == "fused":
            raise EngineError(f"engine.kind=fused: {error}; use engine.kind=sequential") from error
        return Population(models, optimizer, "sequential"), str(error)
    kernels = native.load()[1] if fused.device.type == "cpu" else "CUDA graphs"
    if kind == "fused":
        return fused, f"as configured, {kernels}"
    buffers = {name: buffer.clone() for name, buffer in fused.stacks["host"].buffers.items()}
    lanes = x.permute(1, 2, 3, 0).contiguous()
    fused.fused.prepare(1, fused.version)
    fused_s = _seconds(lambda: fused.fused.gradients(lanes, y, 0))
    sequential_s = _seconds(lambda: fused.sequential.gradients(x, y))
    for name, buffer in buffers.items():
        fused.stacks["host"].buffers[name].copy_(buffer)
    timing = f"fused {1e3 * fused_s:.1f} ms a step, sequential {1e3 * sequential_s:.1f} ms"
    if fused_s <= sequential_s:
        return fused, f"{timing}; {kernels}"
    return Population(models, optimizer, "sequential"), timing


def _seconds(step: Callable[[], object]) -> float:
    """The fastest of some repetitions: what else the machine does can only add."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times)

"""A population on the engine that suits it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from esper.engine.arguments import checked_members
from esper.engine.backends.proof import Trial
from esper.engine.backends.selection import choose, thread_counts
from esper.engine.optimizer import OptimizerConfig
from esper.engine.population import Population, build
from esper.kasmina.host import MorphogeneticModel
from esper.leyline import CROSS_ENTROPY


def choose_engine(
    models: Sequence[MorphogeneticModel],
    optimizer: OptimizerConfig | Sequence[OptimizerConfig],
    x: Tensor,
    y: Tensor,
    precision: torch.dtype = torch.float32,
    kind: str = "auto",
    threads: int | None = None,
    memory_format: str = "auto",
    blueprints: Sequence[str] = (),
    loss: str = CROSS_ENTROPY,
) -> tuple[Population, str]:
    """A population on the fastest engine, and why; torch is set to the number of threads that is fastest with it.

    kind: "auto", or the engine that is asked for; threads: None is measured, too; memory_format: "auto", "contiguous"
    or "channels_last". Else, and raises, as `esper.engine.backends.selection.choose`.
    """
    models, configs = checked_members(models, optimizer)
    counts = thread_counts(threads, x.device)
    asked = None if kind == "auto" else kind
    is_channels_last = None if memory_format == "auto" else memory_format == "channels_last"
    trial = Trial(models, configs, x, y, build, loss)
    choice = choose(trial, precision, asked, counts, is_channels_last, blueprints)
    torch.set_num_threads(choice.threads)
    return build(models, configs, choice.way, precision, loss), choice.reason

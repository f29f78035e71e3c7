"""From settings to a task: a builder gives one, or data that become one."""

import torch

from esper.errors import ConfigError, TaskError
from esper.registry import place
from esper.tasks.data import Data, build_from_data
from esper.tasks.keeping import beside, fits_device
from esper.tasks.settings import TASKS, BaseTaskConfig
from esper.tasks.task import Task


def build_task(
    settings: BaseTaskConfig, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0
) -> Task:
    """Load and split the data that the settings name.

    Args:
        seed: the run's seed; it decides the splits only where `settings.split_seed` is None.

    Raises:
        ConfigError: no task has this name, or its builder gives something else. TaskError: its data is missing, altered
        or unreadable.
    """
    device = torch.device(device)
    if settings.keep in ("auto", "device"):
        try:
            task = _build(settings, device, dtype, seed)
            if settings.keep == "device" or fits_device(task):
                return task
        except torch.OutOfMemoryError:
            if settings.keep == "device":
                raise TaskError(f"task={settings.name}: does not fit on {device}; use task.keep=host") from None
    return beside(_build(settings, torch.device("cpu"), dtype, seed), device, settings.keep == "disk")


def _build(settings: BaseTaskConfig, device: torch.device, dtype: torch.dtype, seed: int) -> Task:
    split_seed = seed if settings.split_seed is None else settings.split_seed
    built: object = TASKS.build(settings, device=device, dtype=dtype, split_seed=split_seed)
    if isinstance(built, Data):
        fractions = {key: getattr(settings, key) for key in ("val_fraction", "test_fraction") if hasattr(settings, key)}
        return build_from_data(built, settings.name, device, dtype, split_seed, **fractions)
    if not isinstance(built, Task):
        made = f"{type(built).__module__}.{type(built).__name__}"
        raise ConfigError(
            f"task={settings.name}: {place(TASKS.builder(settings.name))} gave {made}; expected esper.Data"
        )
    return built

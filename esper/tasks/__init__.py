"""The data: tasks as tensors on the device, split three ways, drawn anew each epoch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from esper.tasks.settings import (
    TASKS,
    BaseTaskConfig,
    Cifar10Config,
    CorpusConfig,
    DigitsConfig,
    PysourceConfig,
    TextConfig,
)

if TYPE_CHECKING:
    from esper.tasks.building import build_task
    from esper.tasks.data import Data
    from esper.tasks.task import Task

__all__ = [
    "TASKS",
    "BaseTaskConfig",
    "Cifar10Config",
    "CorpusConfig",
    "Data",
    "DigitsConfig",
    "PysourceConfig",
    "Task",
    "TextConfig",
    "build_task",
]

_LAZY = {"Data": "esper.tasks.data", "Task": "esper.tasks.task", "build_task": "esper.tasks.building"}


def __getattr__(name: str) -> Any:  # settings are read where torch must not be loaded
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)

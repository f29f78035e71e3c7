"""Group `task`: the data that hosts learn. The tasks' own settings are the schemas; they need no torch."""

from esper.tasks.settings import Cifar10Settings, DigitsSettings, PysourceSettings, TaskSettings, TextSettings

TASKS: dict[str, type[TaskSettings]] = {
    "digits": DigitsSettings,
    "cifar10": Cifar10Settings,
    "pysource": PysourceSettings,
    "text": TextSettings,
}

__all__ = ["TASKS", "TaskSettings"]

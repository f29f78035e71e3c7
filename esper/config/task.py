"""Group `task`: the data that hosts learn. The tasks' own settings are the schemas; they need no torch."""

from esper.tasks.settings import Cifar10Settings, DigitsSettings, TaskSettings

TASKS: dict[str, type] = {"digits": DigitsSettings, "cifar10": Cifar10Settings}

__all__ = ["TASKS", "TaskSettings"]

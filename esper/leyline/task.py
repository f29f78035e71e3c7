"""Facts about a task that bodies and controllers need."""

from dataclasses import dataclass


@dataclass(slots=True)
class TaskConfig:
    """What kind of host a task calls for, and how long seeds blend (in blending steps)."""

    topology: str = "cnn"
    blending_steps: int = 10
    num_classes: int = 10
    max_epochs: int = 25

"""What a controller can ask for."""

from dataclasses import dataclass
from enum import Enum, IntEnum


class Operation(IntEnum):
    """What to do this epoch with one slot of one member."""

    WAIT = 0
    GERMINATE = 1
    ADVANCE = 2
    CULL = 3


@dataclass(frozen=True, slots=True)
class Action:
    """One member's decision for one epoch. Fields that the operation does not need stay empty."""

    operation: Operation = Operation.WAIT
    slot: str = ""
    blueprint: str = ""
    blend: str = "sigmoid"
    reason: str = ""


WAIT = Action()


class SimicAction(Enum):
    """The one-slot flat action set of the IQL comparison."""

    WAIT = 0
    GERMINATE_CONV = 1
    GERMINATE_ATTENTION = 2
    GERMINATE_NORM = 3
    GERMINATE_DEPTHWISE = 4
    ADVANCE = 5
    CULL = 6

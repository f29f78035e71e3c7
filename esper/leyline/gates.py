"""Quality gates: the levels and what a check reports."""

from dataclasses import dataclass, field
from enum import IntEnum


class GateLevel(IntEnum):
    """The checks of a seed's life, in the order it meets them."""

    G0 = 0  # may be planted
    G1 = 1  # may train
    G2 = 2  # may blend
    G3 = 3  # may be on probation
    G4 = 4  # served its probation
    G5 = 5  # may become a fossil


@dataclass(slots=True)
class GateResult:
    """One gate's verdict. `checks_*` are short strings such as "global_improvement_2.00%"; score is in [0, 1]."""

    gate: GateLevel
    passed: bool
    score: float = 0.0
    checks_passed: list[str] = field(default_factory=list)
    checks_failed: list[str] = field(default_factory=list)
    message: str = ""

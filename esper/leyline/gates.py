"""Quality gates: the levels, what a check reports, and the thresholds."""

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


@dataclass(kw_only=True)
class GateConfig:
    """Thresholds of the gates. Improvement and contribution are in points (percent of validation accuracy)."""

    min_training_improvement: float = 0.5  # G2: the member's gain since the seed began training
    min_training_epochs: int = 1  # G2
    max_isolation_violations: int = 0  # G2
    min_gradient_ratio: float = 0.05  # G2: gradient norm of the seed over that of the host
    min_blending_alpha: float = 1.0  # G3
    min_probation_epochs: int = 1  # G4
    min_contribution: float = 0.1  # G5: accuracy with the seed minus without it

"""Measures: what hosts and policies are compared by, and how their figures are shown."""

import math
from dataclasses import dataclass

from esper.leyline import SCORE_KINDS


@dataclass(frozen=True, slots=True)
class Measure:
    """One metric. title, unit, decimals and scale: as tables show it; within: what a stored value can be, unscaled.

    better: 1 where more is better, -1 where less is, 0 where neither: what something cost.
    """

    name: str
    title: str
    unit: str = ""
    meaning: str = ""  # of what is stored
    decimals: int = 1
    scale: float = 1.0
    within: tuple[float, float] = (0.0, math.inf)
    better: int = 0

    @property
    def is_score(self) -> bool:
        """Whether it is in percent."""
        return is_score(self.name)

    @property
    def heading(self) -> str:
        """Title and unit."""
        return f"{self.title}, {self.unit}" if self.unit else self.title


def is_score(name: str) -> bool:
    """Whether a figure of this name is a score, and so in percent."""
    return name.endswith(tuple(kind.name for kind in SCORE_KINDS))

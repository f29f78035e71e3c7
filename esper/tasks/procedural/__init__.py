"""Problems that are drawn, not collected, and whose answers can be checked exactly."""

from esper.tasks.procedural import digits, numbers, programs, structures
from esper.tasks.procedural.problem import FAMILIES, Family, Problem, draw_problem, is_right

__all__ = [
    "FAMILIES", "Family", "Problem", "digits", "draw_problem", "is_right", "numbers", "programs", "structures"
]  # fmt: skip

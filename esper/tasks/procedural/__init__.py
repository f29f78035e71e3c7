"""Problems that are drawn, not collected, and whose answers can be checked exactly."""

from esper.tasks.procedural import numbers
from esper.tasks.procedural.problem import FAMILIES, Family, Problem, draw_problem

__all__ = ["FAMILIES", "Family", "Problem", "draw_problem", "numbers"]

"""Small programs, whose output is asked; a real interpreter says what it is."""

import torch

from esper.tasks.procedural.interpreter import run_program
from esper.tasks.procedural.problem import FAMILIES, LEVELS, Family, Problem, whole_number


def _programs(level: int, generator: torch.Generator) -> Problem:
    """What a program of (level + 3) / 2 statements on one variable prints; the thought has its value after each.

    From level 4 on it multiplies, from level 7 on it repeats, at most twice.
    """
    value = whole_number(0, 9, generator)
    statements, values = [f"x={value}"], [value]
    for _ in range((level + 1) // 2):
        loops = sum(statement.startswith("for") for statement in statements)
        kinds = 2 if level < 4 else 3 if level < 7 or loops == 2 else 4
        statement, value = _statement(value, whole_number(1, kinds, generator), generator)
        statements.append(statement)
        values.append(value)
    body = "\n".join([*statements, "print(x)"]) + "\n="
    return Problem("programs", level, "run ", body, str(value), " ".join(map(str, values)))


def _statement(value: int, kind: int, generator: torch.Generator) -> tuple[str, int]:
    """One that changes x, and what x is after it."""
    digit = whole_number(1, 9, generator)
    if kind == 1:
        return f"x+={digit}", value + digit
    if kind == 2:
        return f"x-={digit}", value - digit
    if kind == 3:
        return "x*=2", value * 2
    times = whole_number(2, 4, generator)
    return f"for i in range({times}):x+={digit}", value + times * digit


def _prints(problem: Problem, answer: str) -> bool:
    """Whether the program, run, prints the answer and nothing else."""
    return run_program(problem.body.removesuffix("=")) == f"{answer}\n"


FAMILIES.add(Family(name="programs", levels=LEVELS, draw=_programs, is_right=_prints))

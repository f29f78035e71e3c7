"""Families of digit strings: one kind of body, "3527=", and the prefix alone says what is to be done with it."""

from collections.abc import Callable

import torch

from esper.tasks.procedural.problem import DIGITS, FAMILIES, LEVELS, Family, Problem, is_exact, whole_number

# family: its prefix, and what it makes of the digits
_OPERATIONS: dict[str, tuple[str, Callable[[list[int]], list[int]]]] = {
    "copy": ("copy ", lambda digits: digits),
    "reverse": ("back ", lambda digits: digits[::-1]),
    "sort": ("sort ", sorted),
    "complement": ("nine ", lambda digits: [9 - digit for digit in digits]),
    "increment": ("next ", lambda digits: [(digit + 1) % 10 for digit in digits]),
}


def _drawn_from(family: str) -> Callable[[int, torch.Generator], Problem]:
    prefix, operation = _OPERATIONS[family]

    def draw(level: int, generator: torch.Generator) -> Problem:
        digits = [whole_number(0, 9, generator) for _ in range(level + 2)]
        return Problem(family, level, prefix, f"{_text(digits)}=", _text(operation(digits)))

    return draw


def _text(digits: list[int]) -> str:
    return "".join(map(str, digits))


for _family in _OPERATIONS:
    FAMILIES.add(Family(name=_family, levels=LEVELS, draw=_drawn_from(_family), is_right=is_exact, body=DIGITS))

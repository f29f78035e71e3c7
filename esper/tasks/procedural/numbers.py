"""Families of numbers, whose answers come step by step, so that writing the steps down helps."""

import torch

from esper.tasks.procedural.problem import DIGITS, FAMILIES, LEVELS, Family, Problem, is_exact, whole_number


def _running_sum(level: int, generator: torch.Generator) -> Problem:
    """The sum, modulo ten, of level + 2 digits; the thought has the sum so far after each."""
    digits = [whole_number(0, 9, generator) for _ in range(level + 2)]
    so_far = [sum(digits[: place + 1]) % 10 for place in range(len(digits))]
    body = f"{''.join(map(str, digits))}="
    return Problem("running_sum", level, "sum ", body, str(so_far[-1]), "".join(map(str, so_far)))


def _parity(level: int, generator: torch.Generator) -> Problem:
    """Whether an odd number of 2 level + 2 bits is one; the thought has the parity so far after each."""
    bits = [whole_number(0, 1, generator) for _ in range(2 * level + 2)]
    so_far = [sum(bits[: place + 1]) % 2 for place in range(len(bits))]
    body = f"{''.join(map(str, bits))}="
    return Problem("parity", level, "odd ", body, str(so_far[-1]), "".join(map(str, so_far)))


def _arithmetic(level: int, generator: torch.Generator) -> Problem:
    """A sum, or a difference that is not negative, of numbers with level + 1 digits in all.

    The thought has, from the last column to the first, what it gives with what was carried into it ("12 8": 7 + 5,
    then 3 + 4 and one carried; of a difference, what is left after borrowing, ten lent counted in).
    """
    long, short = (level + 2) // 2, (level + 1) // 2
    numbers = [whole_number(10 ** (size - 1) if size > 1 else 0, 10**size - 1, generator) for size in (long, short)]
    a, b = sorted(numbers, reverse=True)
    is_sum = whole_number(0, 1, generator) == 1
    columns, carried = [], 0
    for place in range(len(str(a))):
        upper, lower = a // 10**place % 10, b // 10**place % 10
        column = upper + lower + carried if is_sum else upper - lower - carried
        carried = column // 10 if is_sum else int(column < 0)
        columns.append(column if is_sum else column + 10 * carried)
    answer = a + b if is_sum else a - b
    body = f"{a}{'+' if is_sum else '-'}{b}="
    return Problem("arithmetic", level, "calc ", body, str(answer), " ".join(map(str, columns)))


FAMILIES.add(Family(name="running_sum", levels=LEVELS, draw=_running_sum, is_right=is_exact, body=DIGITS))
FAMILIES.add(Family(name="parity", levels=LEVELS, draw=_parity, is_right=is_exact, body=DIGITS))
FAMILIES.add(Family(name="arithmetic", levels=LEVELS, draw=_arithmetic, is_right=is_exact))

"""Families whose answer comes step by step, so that writing the steps down helps."""

import torch

from esper.tasks.procedural.problem import FAMILIES, Family, Problem, is_exact, whole_number


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


FAMILIES.add(Family(name="running_sum", levels=10, draw=_running_sum, is_right=is_exact))
FAMILIES.add(Family(name="parity", levels=10, draw=_parity, is_right=is_exact))

"""Families about what belongs together: brackets, and keys with their values."""

import string

import torch

from esper.tasks.procedural.problem import FAMILIES, LEVELS, Family, Problem, is_exact, whole_number

CLOSING = {"(": ")", "[": "]", "{": "}", "<": ">"}


def _brackets(level: int, generator: torch.Generator) -> Problem:
    """What closes the brackets, of level + 2, that are open; the thought has these."""
    open_ones: list[str] = []
    body = ""
    for place in range(level + 2):
        is_last = place == level + 1
        if open_ones and not (is_last and len(open_ones) == 1) and whole_number(0, 1, generator):
            body += CLOSING[open_ones.pop()]
        else:
            open_ones.append(list(CLOSING)[whole_number(0, len(CLOSING) - 1, generator)])
            body += open_ones[-1]
    answer = "".join(CLOSING[bracket] for bracket in reversed(open_ones))
    return Problem("brackets", level, "shut ", f"{body}=", answer, "".join(open_ones))


def _is_closed(problem: Problem, answer: str) -> bool:
    """Whether body and answer make a whole in which every bracket is closed, and the answer opens none."""
    open_ones: list[str] = []
    for bracket in problem.body[:-1] + answer:
        if bracket in CLOSING:
            open_ones.append(bracket)
        elif not open_ones or CLOSING[open_ones.pop()] != bracket:
            return False
    return not open_ones and not any(bracket in CLOSING for bracket in answer)


def _lookup(level: int, generator: torch.Generator) -> Problem:
    """The digit that belongs to a letter, among level + 1 pairs ("a4k0:k=")."""
    keys = torch.randperm(len(string.ascii_lowercase), generator=generator)[: level + 1].tolist()
    pairs = {string.ascii_lowercase[key]: str(whole_number(0, 9, generator)) for key in keys}
    asked = list(pairs)[whole_number(0, level, generator)]
    body = f"{''.join(key + value for key, value in pairs.items())}:{asked}="
    return Problem("lookup", level, "find ", body, pairs[asked])


FAMILIES.add(Family(name="brackets", levels=LEVELS, draw=_brackets, is_right=_is_closed))
FAMILIES.add(Family(name="lookup", levels=LEVELS, draw=_lookup, is_right=is_exact))

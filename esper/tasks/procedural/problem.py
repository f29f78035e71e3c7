"""A problem with a right answer, and the families that problems are drawn from."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from esper.checks import did_you_mean, in_range
from esper.errors import EsperError, TaskError, first_line

LEVELS = 10  # of every family here


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem, as text.

    prefix: says what is to be done ("sum "). body: with what, up to the answer ("3 5 2="). answer: the right one.
    thought: the steps on the way to it, for those who are to be taught to think; empty where there are none.
    """

    family: str
    level: int
    prefix: str
    body: str
    answer: str
    thought: str = ""

    @property
    def prompt(self) -> str:
        """What a model is asked."""
        return self.prefix + self.body


@dataclass(frozen=True, kw_only=True)
class Family:
    """Problems of one kind, from level 1, the easiest, to `levels`.

    draw: (level, generator) -> problem; it depends on nothing else. is_right: (problem, given answer) -> whether the
    answer is right: the verifier, which a family cannot do without. body: what kind its problems' bodies are of, where
    those of other families are of the same and nothing but the prefix tells them apart ("digits").
    """

    name: str
    levels: int
    draw: Callable[[int, torch.Generator], Problem]
    is_right: Callable[[Problem, str], bool]
    body: str = ""


class Families(Mapping[str, Family]):
    """Families by name, in the order in which they became known."""

    def __init__(self) -> None:
        self._known: dict[str, Family] = {}

    def __getitem__(self, name: str) -> Family:
        if name not in self._known:
            hint = did_you_mean(name, self._known)
            raise TaskError(f"family {name!r} is not known; expected one of {', '.join(self._known)}{hint}")
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def add(self, family: Family) -> Family:
        """Make a family known. Raises: TaskError where its name won't do, or it cannot draw or check answers."""
        if not (isinstance(family.name, str) and family.name.isidentifier()):
            raise TaskError(f"family {family.name!r}: its name becomes a metric's: letters, digits and _")
        if family.name in self._known:
            raise TaskError(f"family {family.name!r} is there already; give yours another name")
        if not callable(family.is_right):
            raise TaskError(f"family {family.name!r} has no verifier: is_right={family.is_right!r} cannot be called")
        if not callable(family.draw):
            raise TaskError(f"family {family.name!r} draws no problems: draw={family.draw!r} cannot be called")
        in_range(f"family {family.name}: levels", family.levels, 1)
        self._known[family.name] = family
        return family


FAMILIES = Families()
DIGITS = "digits"  # a body of digits and "="


def draw_problem(family: str, level: int, generator: torch.Generator) -> Problem:
    """A problem of this level.

    Raises: TaskError where there is no such family, or it draws no problem of its own with a body and an answer;
    ConfigError where there is no such level.
    """
    known = FAMILIES[family]
    in_range(f"level of {family}", level, 1, known.levels)
    try:
        found = known.draw(level, generator)
        is_text = all(isinstance(part, str) and part for part in (found.body, found.answer))
        is_sound = is_text and (found.family, found.level) == (family, level)
    except EsperError:
        raise
    except Exception as error:
        raise TaskError(f"family {family!r}: draw fails at level {level}: {_told(error)}") from error
    if not is_sound:
        raise TaskError(f"family {family!r}: draw gives no problem of level {level} with a body and an answer: {found}")
    return found


def is_right(problem: Problem, answer: str) -> bool:
    """What the family's verifier says of an answer. Raises: TaskError where it fails."""
    try:
        return bool(FAMILIES[problem.family].is_right(problem, answer))
    except EsperError:
        raise
    except Exception as error:
        raise TaskError(f"family {problem.family!r}: is_right fails on {answer[:40]!r}: {_told(error)}") from error


def _told(error: Exception) -> str:
    return f"{type(error).__name__}, {first_line(error)}"


def is_exact(problem: Problem, answer: str) -> bool:
    """The verifier of families that have one right answer, to the letter."""
    return answer == problem.answer


def whole_number(low: int, high: int, generator: torch.Generator) -> int:
    """One from `low` to `high`, both included."""
    return int(torch.randint(low, high + 1, (1,), generator=generator))

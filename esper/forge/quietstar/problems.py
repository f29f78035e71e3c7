"""The problems of the phase: what is learned from, what is chosen by, and what figures are measured on."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from esper.errors import ForgeError
from esper.forge.examples import thought_example
from esper.forge.quietstar.config import ThoughtFamily
from esper.tasks.procedural import FAMILIES, Problem, draw_problem
from esper.tasks.task import named_generator
from esper.tasks.text.tokenizer import Tokenizer

_MOST_TRIES = 1000


@dataclass(frozen=True, slots=True)
class ThoughtProblems:
    """Problems of the families, apart from each other: no prompt of `test` or `validation` is ever drawn."""

    kinds: tuple[tuple[str, int], ...]
    test: tuple[Problem, ...]
    validation: tuple[Problem, ...]
    _held_out: frozenset[str]

    @classmethod
    def of(cls, families: Sequence[ThoughtFamily], test: int, validation: int, seed: int) -> "ThoughtProblems":
        """Args: test, validation: problems of each family. Raises: ForgeError where they have no thoughts, or too few.

        ConfigError and TaskError on levels and families that there are not.
        """
        for family in families:
            for level in family.levels:
                if not draw_problem(family.name, level, named_generator(0, "quietstar/probe")).thought:
                    raise ForgeError(
                        f"quietstar.families: problems of {family.name} come without thoughts to learn from\n"
                        f"  expected families whose problems have some: {', '.join(_thinking())}"
                    )
        kinds = tuple((family.name, level) for family in families for level in family.levels)
        generator = named_generator(seed, "quietstar/held_out")
        tested = tuple(problem for family in families for problem in _evenly(family, test, generator))
        none = frozenset(problem.prompt for problem in tested)
        validated = tuple(
            _other_than(none, family.name, family.levels[place % len(family.levels)], generator)
            for family in families
            for place in range(validation)
        )
        held_out = none | {problem.prompt for problem in validated}
        for name, level in kinds:  # whether some are left to learn from
            _other_than(held_out, name, level, named_generator(0, "quietstar/probe"))
        return cls(kinds, tested, validated, held_out)

    def draw(self, count: int, generator: torch.Generator) -> list[Problem]:
        """To learn from, evenly from all families and levels."""
        picked = torch.randint(len(self.kinds), (count,), generator=generator).tolist()
        kinds = [self.kinds[place] for place in picked]
        return [_other_than(self._held_out, family, level, generator) for family, level in kinds]

    def check_room(self, tokenizer: Tokenizer, block_size: int) -> None:
        """Raise ForgeError where a prompt, its thought and its answer are longer than the model's context."""
        for problem in (*self.test, *self.validation):
            if (length := len(thought_example(problem, tokenizer))) > block_size:
                raise ForgeError(
                    f"quietstar.families: {problem.family} of level {problem.level} takes {length} tokens with its "
                    f"thought, and the model reads {block_size}\n  take easier levels, or a larger model.block_size"
                )


def _evenly(family: ThoughtFamily, count: int, generator: torch.Generator) -> list[Problem]:
    levels = family.levels
    return [draw_problem(family.name, levels[place % len(levels)], generator) for place in range(count)]


def _other_than(prompts: frozenset[str], family: str, level: int, generator: torch.Generator) -> Problem:
    for _ in range(_MOST_TRIES):
        if (problem := draw_problem(family, level, generator)).prompt not in prompts:
            return problem
    raise ForgeError(
        f"quietstar.families: {family} of level {level} has too few problems to hold some out for measuring\n"
        "  take harder levels, or a smaller quietstar.test_problems"
    )


def _thinking() -> list[str]:
    generator = named_generator(0, "quietstar/probe")
    return [name for name in FAMILIES if draw_problem(name, 1, generator).thought]

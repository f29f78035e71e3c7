"""The tasks that a prefix alone tells apart, and how well a model does one after any prompt, or after none."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from esper.errors import ForgeError
from esper.forge.lessons import Lesson, answer_of
from esper.forge.sampling import sample
from esper.tasks.procedural import Problem, is_right
from esper.tasks.task import named_generator
from esper.tasks.text.tokenizer import Tokenizer

PHASE = "baking"
_PROBE = 16  # problems of each level that a task's prefix and lengths are read from


@dataclass(frozen=True, slots=True)
class Prompt:
    """Tokens that are put before what a model reads. family: the task that they ask for; None: text is to follow."""

    tokens: tuple[int, ...]
    family: str | None = None


class PrefixedTasks:
    """Families of problems by their levels.

    Raises: TaskError, ConfigError where there is no such family or level; ForgeError where two have the same prefix.
    """

    def __init__(self, families: Sequence[str], levels: Sequence[int], tokenizer: Tokenizer) -> None:
        self.families, self.levels, self.tokenizer = tuple(families), list(levels), tokenizer
        generator = named_generator(0, "baking/probe")
        probed = {name: self.lesson("answer", [name]).problems(_PROBE * len(levels), generator) for name in families}
        self._prefixes = {name: problems[0].prefix for name, problems in probed.items()}
        if len(set(self._prefixes.values())) < len(self._prefixes):
            raise ForgeError(
                f"baking.families: {', '.join(map(repr, self._prefixes.values()))} are their prefixes\n"
                "  expected families whose prefixes differ"
            )
        every = [problem for problems in probed.values() for problem in problems]
        self.answer_tokens = max(len(tokenizer.encode(problem.answer)) for problem in every) + 1
        self.body_tokens = max(len(self.body(problem)) for problem in every)

    def lesson(self, style: str, families: Sequence[str] | None = None) -> Lesson:
        """All levels of these families, or of all."""
        return Lesson(phase=PHASE, families=dict.fromkeys(families or self.families, self.levels), style=style)

    def prompt(self, family: str) -> Prompt:
        """A family's own prefix."""
        return Prompt(tuple(self.tokenizer.encode(self._prefixes[family])), family)

    def worked_prompt(self, family: str, generator: torch.Generator) -> Prompt:
        """A solved problem before the prefix, which shows what the prefix asks for."""
        problem = self.problems(family, 1, generator)[0]
        solved = self.tokenizer.encode(problem.prompt + problem.answer)
        return Prompt((*solved, self.tokenizer.eos_token_id, *self.prompt(family).tokens), family)

    def problems(self, family: str, count: int, generator: torch.Generator) -> list[Problem]:
        """Drawn evenly from the levels."""
        return self.lesson("answer", [family]).problems(count, generator)

    def body(self, problem: Problem) -> list[int]:
        """What the model reads behind a prompt."""
        return self.tokenizer.encode(problem.body)

    def accuracy(self, network: nn.Module, prompt: Sequence[int], problems: Sequence[Problem]) -> float:
        """Share of problems whose likeliest answer, behind this prompt, the verifier finds right; (): unprompted."""
        asked = [(*prompt, *self.body(problem)) for problem in problems]
        written = sample(network, asked, self.answer_tokens, self.tokenizer.eos_token_id)
        answers = [answer_of(tokens, self.tokenizer) for tokens in written]
        right = [is_right(problem, answer) for problem, answer in zip(problems, answers, strict=True)]
        return sum(right) / len(right)

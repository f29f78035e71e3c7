"""What a phase has taught a model beside text: named in its card, so that later phases can measure and keep it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from esper.checks import in_range, one_of, require, whole
from esper.errors import CheckpointError, EsperError, first_line
from esper.forge.examples import Example, answer_example, think_tokens, thought_example
from esper.forge.sampling import sample
from esper.tasks.procedural import FAMILIES, Problem, draw_problem, is_right
from esper.tasks.task import named_generator
from esper.tasks.text.tokenizer import Tokenizer

STYLES = ("answer", "thought", "unprompted")
_LONGEST_NAME = 40  # it becomes a metric's, and the head of a column


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """Families of problems, by the levels that were taught, and how they are answered.

    phase: that taught it. families: name -> levels. style: answer (right after the prompt), thought (after a thought),
    unprompted (the family's prefix is left out: the model does it unasked).
    """

    phase: str
    families: Mapping[str, list[int]]
    style: str = "answer"

    def __post_init__(self) -> None:
        is_name = isinstance(self.phase, str) and self.phase.isidentifier() and len(self.phase) <= _LONGEST_NAME
        require(is_name, "a lesson's phase", self.phase, f"letters, digits and _, at most {_LONGEST_NAME}")
        one_of("style", self.style, STYLES)
        require(len(self.families) > 0, f"families of {self.name}", self.families, "at least one")
        for family, levels in self.families.items():
            require(len(set(levels)) == len(levels) > 0, f"levels of {family}", levels, "at least one, each once")
            for level in levels:
                whole(f"level of {family}", level, 1)
                in_range(f"level of {family}", level, 1, FAMILIES[family].levels)

    @property
    def name(self) -> str:
        """As columns and metrics call it."""
        return f"{self.phase}/{self.style}"

    def plain(self) -> dict[str, Any]:
        """As a card has it."""
        return asdict(self) | {"families": {name: list(levels) for name, levels in self.families.items()}}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Lesson":
        """As a card has it. Raises: CheckpointError where it is malformed."""
        try:
            return cls(**plain)
        except (EsperError, TypeError, AttributeError) as error:
            reason = first_line(error) if isinstance(error, EsperError) else f"a lesson is malformed: {error}"
            raise CheckpointError(reason) from None

    def problems(self, count: int, generator: torch.Generator) -> list[Problem]:
        """Drawn evenly from all families and levels."""
        kinds = [(family, level) for family, levels in self.families.items() for level in levels]
        picked = torch.randint(len(kinds), (count,), generator=generator).tolist()
        return [draw_problem(kinds[place][0], kinds[place][1], generator) for place in picked]

    def prompt(self, problem: Problem) -> str:
        """What the model is asked."""
        return problem.body if self.style == "unprompted" else problem.prompt

    def examples(self, count: int, generator: torch.Generator, tokenizer: Tokenizer) -> list[Example]:
        """Prompts and right answers, to be trained on."""
        problems = self.problems(count, generator)
        if self.style == "thought":  # all have one: a model that chooses to think is not taught to leave it again
            return [thought_example(problem, tokenizer) for problem in problems]
        return [answer_example(problem, tokenizer, self.prompt(problem)) for problem in problems]

    def accuracy(self, network: nn.Module, tokenizer: Tokenizer, count: int = 256, seed: int = 0) -> float:
        """Share of drawn problems that the network, writing what is likeliest, answers rightly; a thought comes first.

        The same problems for the same seed, drawn apart from those of training; where a level has few, some are both.
        """
        problems = self.problems(count, named_generator(seed, f"lesson/{self.name}"))
        return sum(self.is_right(network, problems, tokenizer)) / count

    def is_right(self, network: nn.Module, problems: list[Problem], tokenizer: Tokenizer) -> list[bool]:
        """Of each problem, whether the network's likeliest answer is right."""
        return self.answers(network, problems, tokenizer)[1]

    def answers(
        self,
        network: nn.Module,
        problems: list[Problem],
        tokenizer: Tokenizer,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> tuple[list[Example], list[bool]]:
        """What the network writes for each problem, and whether the verifier says that it is right.

        Args: temperature, generator: see `sample`.
        """
        prompts = [tokenizer.encode(self.prompt(problem)) for problem in problems]
        most = max(len(tokenizer.encode(problem.answer)) for problem in problems) + 1
        end_think = None
        if self.style == "thought":
            think, end_think = think_tokens(tokenizer)
            prompts = [[*prompt, think] for prompt in prompts]
            most += max(len(tokenizer.encode(problem.thought)) for problem in problems) + 1
        written = sample(network, prompts, most, tokenizer.eos_token_id, temperature, generator)
        right = [
            is_right(problem, answer_of(tokens, tokenizer, end_think))
            for problem, tokens in zip(problems, written, strict=True)
        ]
        examples = [Example(tuple(prompt), tuple(tokens)) for prompt, tokens in zip(prompts, written, strict=True)]
        return examples, right


def answer_of(tokens: list[int], tokenizer: Tokenizer, end_think: int | None = None) -> str:
    """The answer in what was written: what stands before the end of the text, and behind the thought.

    What does not end, or whose thought does not, is no answer: the empty text.
    """
    if not tokens or tokens[-1] != tokenizer.eos_token_id:
        return ""
    if end_think is not None:
        if end_think not in tokens:
            return ""
        tokens = tokens[tokens.index(end_think) + 1 :]
    return tokenizer.decode(tokens[:-1])

"""Minibatches in which what a model was taught before comes back, so that it is not lost."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from esper.forge.examples import Example, ExampleBatches, GroupedBatches
from esper.forge.lessons import Lesson
from esper.forge.training import Batches, even_text
from esper.tasks.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from esper.forge.phase import PhaseContext


def text_with_lessons(
    context: "PhaseContext",
    batch_size: int,
    length: int,
    name: str,
    lessons: Sequence[Lesson],
    replay_share: float,
) -> Batches:
    """Windows of text, of which so large a share are examples of the lessons, each lesson as often as any other.

    Args: name: see `MixedBatches`. length: T, of every row. lessons: where there are none, all is text.
    """
    replayed = min(round(replay_share * batch_size), batch_size - 1) if lessons else 0
    text = even_text(context, batch_size - replayed, length, name)
    if not replayed:
        return text
    tokenizer = context.tokenizer

    def draw(count: int, generator: torch.Generator) -> list[Example]:
        picked = torch.randint(len(lessons), (count,), generator=generator).tolist()
        return [lessons[place].examples(1, generator, tokenizer)[0] for place in picked]

    examples = ExampleBatches(draw, replayed, tokenizer.pad_token_id, text.generator, length)
    return GroupedBatches([(text, batch_size - replayed), (examples, replayed)])


def lesson_batches(
    lessons: Sequence[Lesson], rows: int, tokenizer: Tokenizer, generator: torch.Generator
) -> ExampleBatches:
    """Minibatches of examples of all these lessons, each row of one of them."""

    def draw(count: int, generator: torch.Generator) -> list[Example]:
        picked = torch.randint(len(lessons), (count,), generator=generator).bincount(minlength=len(lessons)).tolist()
        return [
            example
            for lesson, share in zip(lessons, picked, strict=True)
            if share
            for example in lesson.examples(share, generator, tokenizer)
        ]

    return ExampleBatches(draw, rows, tokenizer.pad_token_id, generator)

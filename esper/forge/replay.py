"""Minibatches of text in which what a model was taught before comes back, so that it is not lost."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from esper.forge.examples import Example, ExampleBatches, JoinedBatches
from esper.forge.lessons import Lesson
from esper.forge.training import Batches, MixedBatches

if TYPE_CHECKING:
    from esper.forge.phase import PhaseContext


def text_with_lessons(
    context: "PhaseContext",
    shares: Mapping[str, float],
    batch_size: int,
    length: int,
    name: str,
    lessons: Sequence[Lesson],
    replay_share: float,
) -> Batches:
    """Windows of text, of which so large a share are examples of the lessons, each lesson as often as any other.

    Args: shares, name: as of `MixedBatches`. length: T, of every row. lessons: where there are none, all is text.
    """
    replayed = min(round(replay_share * batch_size), batch_size - 1) if lessons else 0
    text = MixedBatches(context.corpus, shares, batch_size - replayed, length, name, context.seed)
    if not replayed:
        return text
    tokenizer = context.tokenizer

    def draw(count: int, generator: torch.Generator) -> list[Example]:
        picked = torch.randint(len(lessons), (count,), generator=generator).tolist()
        return [lessons[place].examples(1, generator, tokenizer)[0] for place in picked]

    return JoinedBatches(text, ExampleBatches(draw, replayed, tokenizer.pad_token_id, text.generator, length))

"""Minibatches whose rows come from several sources: what is baked or taught, and what must not be lost by it."""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper.forge.examples import IGNORED, Example, ExampleBatches
from esper.forge.lessons import Lesson
from esper.forge.training import Batches, next_token_loss
from esper.tasks.text.tokenizer import Tokenizer


class GroupedBatches:
    """Rows of several sources in one minibatch, which `split` takes apart again; a group costs what its own rows do.

    Args: parts: each with how many rows it draws; all draw from one generator, so that one state is all their future.
    """

    def __init__(self, parts: Sequence[tuple[Batches, int]]) -> None:
        self.generator = parts[0][0].generator
        if any(part.generator is not self.generator for part, _ in parts):
            raise ValueError("all must draw from one generator, so that one state is all of their future")
        self._parts, self._rows = [part for part, _ in parts], [rows for _, rows in parts]

    def draw(self) -> tuple[Tensor, Tensor]:
        """x, y [B, T], T of the longest row; y is IGNORED behind the others."""
        drawn = [part.draw() for part in self._parts]
        length = max(x.shape[1] for x, _ in drawn)
        return (
            torch.cat([F.pad(x, (0, length - x.shape[1])) for x, _ in drawn]),
            torch.cat([F.pad(y, (0, length - y.shape[1]), value=IGNORED) for _, y in drawn]),
        )

    def split(self, x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The parts of what was drawn, each cut behind the last token that is learned."""
        for part_x, part_y in zip(x.split(self._rows), y.split(self._rows), strict=True):
            length = int((part_y != IGNORED).any(0).nonzero().max()) + 1
            yield part_x[:, :length], part_y[:, :length]


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


def pool_batches(pool: Sequence[Example], rows: int, pad: int, generator: torch.Generator) -> ExampleBatches:
    """Minibatches drawn from examples that are there."""

    def draw(count: int, generator: torch.Generator) -> list[Example]:
        return [pool[place] for place in torch.randint(len(pool), (count,), generator=generator).tolist()]

    return ExampleBatches(draw, rows, pad, generator)


def grouped_loss(batches: GroupedBatches) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """The next token's loss, a mean over groups, in each over its tokens."""

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([next_token_loss(model, *part) for part in batches.split(x, y)]).mean()

    return loss

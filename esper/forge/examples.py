"""Prompts with what should follow them, as minibatches like those of text, and beside those."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper.errors import ForgeError
from esper.forge.training import Batches, next_token_loss
from esper.tasks.procedural import Problem
from esper.tasks.text.tokenizer import Tokenizer

IGNORED = -100  # as a target: nothing is learned there; torch's ignore_index


@dataclass(frozen=True, slots=True)
class Example:
    """Tokens that are given, and those that should follow, of which alone is learned."""

    prompt: tuple[int, ...]
    target: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.target)


def answer_example(problem: Problem, tokenizer: Tokenizer, prompt: str | None = None) -> Example:
    """The answer right after the prompt, and the end of the text. Args: prompt: None: the problem's own."""
    asked = problem.prompt if prompt is None else prompt
    target = (*tokenizer.encode(problem.answer), tokenizer.eos_token_id)
    return Example(tuple(tokenizer.encode(asked)), target)


def thought_example(problem: Problem, tokenizer: Tokenizer, thought: str | None = None) -> Example:
    """A thought between its tokens, the answer, and the end of the text. Args: thought: None: the problem's own.

    Raises: ForgeError where the tokenizer has no tokens for it.
    """
    think, end_think = think_tokens(tokenizer)
    thought = problem.thought if thought is None else thought
    answer = answer_example(problem, tokenizer)
    return Example(answer.prompt, (think, *tokenizer.encode(thought), end_think, *answer.target))


def think_tokens(tokenizer: Tokenizer) -> tuple[int, int]:
    """What begins and ends a thought. Raises: ForgeError where the tokenizer has no such tokens."""
    if tokenizer.think_token_id is None or tokenizer.end_think_token_id is None:
        raise ForgeError(
            f"tokenizer={tokenizer.name}: has no tokens <think> and </think>, between which a thought stands\n"
            "  expected bytes, or a tokenizer file with both as special tokens"
        )
    return tokenizer.think_token_id, tokenizer.end_think_token_id


def pad_examples(examples: Sequence[Example], pad: int, length: int | None = None) -> tuple[Tensor, Tensor]:
    """Tokens and, where they are to be learned, the token after each.

    Args: length: T, of every row; None: of the longest. Returns: x, y [B, T] int64; y is IGNORED elsewhere.
    Raises: ForgeError where an example is longer.
    """
    longest = max(map(len, examples)) - 1
    if length is not None and longest > length:
        raise ForgeError(
            f"a prompt and its answer take {longest + 1} tokens, and the model reads {length}\n"
            "  take an easier level, or a larger model.block_size"
        )
    shape = (len(examples), longest if length is None else length)
    x, y = torch.full(shape, pad), torch.full(shape, IGNORED)
    for row, example in enumerate(examples):
        tokens = torch.tensor([*example.prompt, *example.target])
        x[row, : len(example) - 1] = tokens[:-1]
        y[row, len(example.prompt) - 1 : len(example) - 1] = tokens[len(example.prompt) :]
    return x, y


class ExampleBatches:
    """Minibatches of drawn examples. Args: draw: count, generator -> examples. length: as in `pad_examples`."""

    def __init__(
        self,
        draw: Callable[[int, torch.Generator], Sequence[Example]],
        batch_size: int,
        pad: int,
        generator: torch.Generator,
        length: int | None = None,
    ) -> None:
        self.generator = generator
        self._draw, self._batch_size, self._pad, self._length = draw, batch_size, pad, length

    def draw(self) -> tuple[Tensor, Tensor]:
        """x, y [B, T], as `pad_examples` has them."""
        return pad_examples(self._draw(self._batch_size, self.generator), self._pad, self._length)


def pool_batches(pool: Sequence[Example], rows: int, pad: int, generator: torch.Generator) -> ExampleBatches:
    """Minibatches drawn from examples that are there."""

    def draw(count: int, generator: torch.Generator) -> list[Example]:
        return [pool[place] for place in torch.randint(len(pool), (count,), generator=generator).tolist()]

    return ExampleBatches(draw, rows, pad, generator)


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


def grouped_loss(batches: GroupedBatches) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """The next token's loss, a mean over groups, in each over its tokens."""

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([next_token_loss(model, *part) for part in batches.split(x, y)]).mean()

    return loss

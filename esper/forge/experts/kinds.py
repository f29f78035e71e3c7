"""Kinds of text, one for each expert: what is drawn of each, as the router deals it out."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from esper.forge.examples import pad_examples
from esper.forge.experts.discovery import Clusters, Prefixes
from esper.forge.experts.router import BATCH, PrefixRouter, mean_features
from esper.forge.lessons import Lesson
from esper.tasks.procedural import Problem
from esper.tasks.text.tokenizer import Tokenizer
from esper.tasks.text.windows import draw_windows

_ROUNDS = 8  # of drawing problems, until enough are of one kind
_PROCEDURAL_SHARE = 0.5  # of a kind's prefixes that are prompts, from which on its expert is trained by reward


@dataclass(frozen=True, slots=True)
class TextKind:
    """One choice of the router.

    lessons: whose prompts are of it, where most of it are prompts; else none. share: of all prefixes.
    """

    number: int
    lessons: tuple[Lesson, ...]
    share: float

    @property
    def is_procedural(self) -> bool:
        """Whether its expert is trained by verified reward."""
        return bool(self.lessons)


def kinds_of(clusters: Clusters, prefixes: Prefixes, lessons: Sequence[Lesson]) -> list[TextKind]:
    """What each cluster is made of."""
    by_name = {lesson.name: lesson for lesson in lessons}
    found = []
    for number in range(clusters.count):
        members = (clusters.labels == number).nonzero()[:, 0].tolist()
        counts = Counter(prefixes.sources[member] for member in members)
        prompts = sum(count for source, count in counts.items() if source in by_name)
        own = [lesson for name, lesson in by_name.items() if counts[name]]
        is_procedural = prompts > _PROCEDURAL_SHARE * len(members)
        found.append(TextKind(number, tuple(own) if is_procedural else (), len(members) / len(prefixes.sources)))
    return found


class Dealer:
    """Deals text and problems out to kinds, by the base's features of their first tokens."""

    def __init__(self, base: Any, router: PrefixRouter, tokenizer: Tokenizer, length: int) -> None:
        self._base, self._router, self._tokenizer, self._length = base, router, tokenizer, length

    @torch.inference_mode()
    def kinds(self, x: Tensor) -> Tensor:
        """Of windows [N, T]. Returns: [N] int64."""
        parts = x[:, : self._length].split(BATCH)
        return torch.cat([self._router(self._base.features(part)) for part in parts]).clone()

    def windows(
        self, streams: Sequence[Tensor], count: int, length: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """So many windows of each text: x, y [N, T], and the kind of each [N]."""
        drawn = [draw_windows(stream, count, length, generator) for stream in streams]
        x, y = torch.cat([x for x, _ in drawn]), torch.cat([y for _, y in drawn])
        return x, y, self.kinds(x)

    @torch.inference_mode()
    def problems(self, kind: TextKind, lesson: Lesson, count: int, generator: torch.Generator) -> list[Problem]:
        """Of a lesson, at most so many of one kind."""
        found: list[Problem] = []
        for _ in range(_ROUNDS):
            drawn = lesson.problems(count, generator)
            prompts = [torch.tensor(self._tokenizer.encode(lesson.prompt(p))[: self._length]) for p in drawn]
            numbers = self._router(mean_features(self._base, prompts)[:, None])
            found += [problem for problem, number in zip(drawn, numbers.tolist(), strict=True) if number == kind.number]
            if len(found) >= count:
                break
        return found[:count]

    def examples(self, kind: TextKind, count: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Prompts and right answers of a procedural kind, as `pad_examples` has them."""
        examples = [each for lesson in kind.lessons for each in lesson.examples(count, generator, self._tokenizer)]
        return pad_examples(examples, self._tokenizer.pad_token_id, length)


class PoolBatches:
    """Minibatches drawn from windows x, y [N, T] that were dealt out."""

    def __init__(self, x: Tensor, y: Tensor, batch_size: int, generator: torch.Generator) -> None:
        self.generator = generator
        self._x, self._y, self._batch_size = x, y, batch_size

    def draw(self) -> tuple[Tensor, Tensor]:
        """x, y [B, T]."""
        rows = torch.randint(len(self._x), (self._batch_size,), generator=self.generator)
        return self._x[rows], self._y[rows]

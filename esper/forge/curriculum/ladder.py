"""At which level each family stands, and when it goes on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from esper.errors import ForgeError
from esper.files import built
from esper.forge.examples import answer_example
from esper.nissa.statistics import Interval
from esper.tasks.procedural import FAMILIES, draw_problem
from esper.tasks.text.tokenizer import Tokenizer

START_ACCURACY = 0.75  # what is neither known nor beyond reach
MASTERY = 0.8  # of the lower bound of Wilson's interval
_WINDOW = 12  # first answers that are looked at together
_PROMISING = 0.84  # share of them that is worth an exam
_PROGRESS = 0.02  # less than that is none
_PROBES = 32  # problems that tell how long a level's are


@dataclass(slots=True)
class Standing:
    """One family's.

    top: the last level that fits the model. start: the first that was worked at. level: now; above top where none is
    left. first: whether first answers at this level were right, the latest last; behind: the same of earlier levels,
    since this one was begun. rounds: at this level. best, stalled: the best share among first answers, and rounds since
    it got better. left: of the levels from start on that are behind, the accuracy when each was left; mastered: which
    of them were.
    """

    family: str
    top: int
    start: int = 1
    level: int = 1
    first: list[bool] = field(default_factory=list)
    behind: list[bool] = field(default_factory=list)
    rounds: int = 0
    best: float = 0.0
    stalled: int = 0
    left: list[float] = field(default_factory=list)
    mastered: list[int] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Whether there is no level left."""
        return self.level > self.top

    @property
    def is_promising(self) -> bool:
        """Whether an exam may show mastery, and what is behind is not about to be lost."""
        recent, behind = self.first[-_WINDOW:], self.behind[-_WINDOW:]
        is_held = sum(behind) >= _PROMISING * len(behind)
        return len(recent) == _WINDOW and sum(recent) >= _PROMISING * _WINDOW and is_held

    def take(self, level: int, is_right: bool) -> None:
        """The first answer to a problem."""
        (self.first if level == self.level else self.behind).append(is_right)

    def begin_at(self, level: int) -> None:
        """Where the assessment has found the family to stand."""
        self.start = self.level = level

    def note(self, plateau_rounds: int) -> bool:
        """A round is over; whether the level has come to a plateau."""
        self.rounds += 1
        recent = self.first[-_WINDOW:]
        share = sum(recent) / max(1, len(recent))
        if share > self.best + _PROGRESS:
            self.best, self.stalled = share, 0
        else:
            self.stalled += 1
        return self.stalled >= plateau_rounds

    def leave(self, accuracy: Interval) -> None:
        """Go on to the next level. accuracy: as examined now."""
        assert accuracy.mean is not None
        self.left.append(accuracy.mean)
        if is_mastered(accuracy):
            self.mastered.append(self.level)
        self.level += 1
        self.first, self.behind, self.rounds, self.best, self.stalled = [], [], 0, 0.0, 0


def is_mastered(accuracy: Interval) -> bool:
    """Whether the lower bound says so."""
    return accuracy.low is not None and accuracy.low >= MASTERY


def nearest_level(assessed: Sequence[Interval]) -> int:
    """The level, counted from 1, whose accuracy is nearest to `START_ACCURACY`; of equals, the easiest."""
    distances = [abs((accuracy.mean or 0.0) - START_ACCURACY) for accuracy in assessed]
    return distances.index(min(distances)) + 1


def make_standings(families: Sequence[str], tokenizer: Tokenizer, context: int) -> dict[str, Standing]:
    """Of each family, with its last level that fits. Raises: ForgeError where not even the first does."""
    return {family: Standing(family, _top_level(family, tokenizer, context)) for family in families}


def _top_level(family: str, tokenizer: Tokenizer, context: int) -> int:
    for level in range(1, FAMILIES[family].levels + 1):
        generator = torch.Generator().manual_seed(level)
        problems = [draw_problem(family, level, generator) for _ in range(_PROBES)]
        longest = max(len(answer_example(problem, tokenizer)) for problem in problems) - 1
        if longest > context:
            if level == 1:
                raise ForgeError(
                    f"curriculum.families: a prompt of {family} and its answer take {longest} tokens, and the model "
                    f"reads {context}\n  leave {family} out, or take a larger model.block_size"
                )
            return level - 1
    return FAMILIES[family].levels


def to_plain(standings: dict[str, Standing]) -> list[dict[str, Any]]:
    """As JSON has them."""
    return [
        {name: getattr(standing, name) for name in Standing.__dataclass_fields__} for standing in standings.values()
    ]


def of_plain(plain: Sequence[dict[str, Any]]) -> dict[str, Standing]:
    """What `to_plain` gave."""
    standings = [built(Standing, known) for known in plain]
    return {standing.family: standing for standing in standings}

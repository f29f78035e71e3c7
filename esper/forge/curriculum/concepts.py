"""The problems in play: each stays until it is answered rightly three times in a row, or five hints did not help."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from esper.forge.curriculum.ladder import Standing
from esper.tasks.procedural import Problem, draw_problem

STREAK = 3  # right answers in a row, after which a concept leaves
MOST_HINTS = 5  # with which a concept may come back


@dataclass(slots=True)
class Concept:
    """A problem that is being learned. streak: right answers in a row. hints: worked answers it was given.

    is_new: not answered yet.
    """

    problem: Problem
    streak: int = 0
    hints: int = 0
    is_new: bool = True

    def record(self, is_right: bool) -> bool:
        """Take in one more answer; whether the concept leaves, as learned or with its last hint."""
        self.is_new = False
        if is_right:
            self.streak += 1
            return self.streak == STREAK
        self.streak = 0
        self.hints += 1
        return self.hints == MOST_HINTS


class Concepts:
    """Those in play, of all families alike.

    Args: count: over all families. hinted: the problems that were answered wrongly in this round, whose worked answers
    are to be learned.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self.known: list[Concept] = []
        self.hinted: list[Problem] = []

    def refill(self, standings: Mapping[str, Standing], replay_share: float, generator: torch.Generator) -> None:
        """Draw new ones in place of those that have gone.

        Args: replay_share: of each family's, that are of levels which it has left behind; 0: such leave at once.
        """
        if not replay_share:
            self.known = [each for each in self.known if each.problem.level == standings[each.problem.family].level]
        for number, (family, standing) in enumerate(standings.items()):
            share = self._count * (number + 1) // len(standings) - self._count * number // len(standings)
            behind = round(share * replay_share) if standing.level > 1 else 0
            at_hand = [each.problem.level == standing.level for each in self.known if each.problem.family == family]
            if not standing.is_over:
                for _ in range(share - behind - sum(at_hand)):
                    self.known.append(Concept(draw_problem(family, standing.level, generator)))
            for _ in range(behind - (len(at_hand) - sum(at_hand))):
                level = int(torch.randint(1, standing.level, (1,), generator=generator))
                self.known.append(Concept(draw_problem(family, level, generator)))

    def record(self, right: list[bool]) -> None:
        """Take in an answer to each; those that are learned, or beyond help, leave."""
        answered = list(zip(self.known, right, strict=True))
        self.hinted = [each.problem for each, is_right in answered if not is_right]
        self.known = [each for each, is_right in answered if not each.record(is_right)]

    def plain(self) -> dict[str, Any]:
        """As JSON has them."""
        return {"known": [asdict(each) for each in self.known], "hinted": [asdict(each) for each in self.hinted]}

    def restore(self, plain: Mapping[str, Any]) -> None:
        """What `plain` gave."""
        self.known = [Concept(**{**each, "problem": Problem(**each["problem"])}) for each in plain["known"]]
        self.hinted = [Problem(**each) for each in plain["hinted"]]

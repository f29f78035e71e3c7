"""Where a step's examples come from: the curriculum, or uniform sampling as its control."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from esper.forge.curriculum.concepts import Concepts
from esper.forge.curriculum.config import CurriculumConfig
from esper.forge.curriculum.ladder import Standing, is_mastered, nearest_level, of_plain, to_plain
from esper.forge.curriculum.verifier_log import VerifierLog
from esper.nissa.statistics import Interval
from esper.tasks.procedural import Problem, draw_problem

_ASSESSED = 24  # problems a level, at the start
_CLOSING_SHARE = 0.2  # of the rounds, at the end: no level is left any more, and what was begun is practised
_KEPT = 64  # of the model's own verified answers, of each family and level: the latest
Departure = tuple[int, str]  # round, and the family that leaves its level in it


class Plan(Protocol):
    """What the training asks for examples; `state` and `restore` take it through a checkpoint."""

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be learned."""
        ...

    @property
    def is_at_start(self) -> bool:
        """Whether there is nothing yet that could be replayed."""
        ...

    def begin_round(self, number: int, network: nn.Module, generator: torch.Generator) -> None:
        """Called before each round's first step; number counts from 0."""
        ...

    def problems(self, count: int, generator: torch.Generator) -> list[Problem]:
        """Those of one step, whose answers are to be learned."""
        ...

    def state(self) -> dict[str, Any]:
        """As plain values."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """What `state` gave."""
        ...


class CurriculumPlan:
    """Families at levels of their own; see `docs/forge.md`.

    Args:
        log: takes down every answer. replays: whether earlier levels come back. departures: rounds in which families
            are to leave their levels, whatever they know: those of another run, to be compared with; None: as exams
            and plateaus say.
    """

    def __init__(
        self,
        config: CurriculumConfig,
        standings: dict[str, Standing],
        log: VerifierLog,
        replays: bool = True,
        departures: Sequence[Departure] | None = None,
    ) -> None:
        self._config, self.log = config, log
        self._replay_share = config.replay_share if replays else 0.0
        self._scheduled = None if departures is None else set(departures)
        self.standings = standings
        self.departures: list[Departure] = []
        self._concepts = Concepts(config.concepts)
        self._own: dict[tuple[str, int], list[Problem]] = {}

    @property
    def is_over(self) -> bool:
        """Whether every family has left its last level."""
        return all(standing.is_over for standing in self.standings.values())

    @property
    def is_at_start(self) -> bool:
        """Whether no family has a level behind it."""
        return all(standing.level == 1 for standing in self.standings.values())

    def begin_round(self, number: int, network: nn.Module, generator: torch.Generator) -> None:
        """Sample, answer, verify; then each family goes on or stays."""
        if number == 0:
            self.log.cut_back(0)
            self._assess(network, generator)
        self._concepts.refill(self.standings, self._replay_share, generator)
        self._answer(number, network)
        for standing in self.standings.values():
            if not standing.is_over and (accuracy := self._leaves(number, standing, network, generator)):
                standing.leave(accuracy)
                self.departures.append((number, standing.family))

    def problems(self, count: int, generator: torch.Generator) -> list[Problem]:
        """Worked answers for what was answered wrongly, beside earlier levels; where none was, the model's own answers.

        Half of the hints are another problem of the same kind, worked: the same few would be learned by heart.
        """
        earlier = self._earlier(round(count * self._replay_share), generator)
        hinted = self._concepts.hinted
        own = [
            problem
            for (family, level), known in self._own.items()
            if level == self.standings[family].level
            for problem in known
        ]
        among = hinted or own
        if not among and not earlier:  # all was right, and each family has just gone on
            going_on = [standing for standing in self.standings.values() if not standing.is_over]
            among = [draw_problem(standing.family, standing.level, generator) for standing in going_on]
        picked = torch.randint(len(among), (count - len(earlier),), generator=generator).tolist() if among else []
        found = []
        for number, problem in enumerate(among[place] for place in picked):
            is_hint = bool(hinted) and number % 2 == 1
            found.append(draw_problem(problem.family, problem.level, generator) if is_hint else problem)
        return earlier + found

    def state(self) -> dict[str, Any]:
        """See `Plan.state`."""
        return {
            "standings": to_plain(self.standings),
            "concepts": self._concepts.plain(),
            "own": [dataclasses.asdict(problem) for known in self._own.values() for problem in known],
            "departures": [list(departure) for departure in self.departures],
            "log_bytes": self.log.length,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """See `Plan.restore`."""
        self.standings = of_plain(state["standings"])
        self._concepts.restore(state["concepts"])
        self.departures = [(number, family) for number, family in state["departures"]]
        self._own = {}
        for problem in (Problem(**plain) for plain in state["own"]):
            self._own.setdefault((problem.family, problem.level), []).append(problem)
        self.log.cut_back(state["log_bytes"])

    def _assess(self, network: nn.Module, generator: torch.Generator) -> None:
        """Upwards from the first level, as far as it could be better than where to start."""
        for standing in self.standings.values():
            found: list[Interval] = []
            for level in range(1, standing.top + 1):
                problems = [draw_problem(standing.family, level, generator) for _ in range(_ASSESSED)]
                found.append(self.log.examine("assessment", 0, problems, network))
                if (found[-1].high or 0.0) < 0.5:
                    break
            standing.begin_at(nearest_level(found))

    def _answer(self, number: int, network: nn.Module) -> None:
        concepts = self._concepts.known
        problems, hints = [each.problem for each in concepts], [each.hints for each in concepts]
        verified = self.log.verify("attempt", number, problems, network, hints)
        for concept, (given, is_right) in zip(concepts, verified, strict=True):
            problem = concept.problem
            if concept.is_new:
                self.standings[problem.family].take(problem.level, is_right)
            if is_right:
                own = self._own.setdefault((problem.family, problem.level), [])
                own.append(dataclasses.replace(problem, answer=given))
                del own[:-_KEPT]
        self._concepts.record([is_right for _, is_right in verified])

    def _leaves(
        self, number: int, standing: Standing, network: nn.Module, generator: torch.Generator
    ) -> Interval | None:
        """The accuracy at the level, where the family is to leave it."""
        if number >= (1 - _CLOSING_SHARE) * self._config.rounds:
            return None
        has_stalled = standing.note(self._config.plateau_rounds)
        if self._scheduled is not None:
            if (number, standing.family) not in self._scheduled:
                return None
            has_stalled = True
        elif not has_stalled and not standing.is_promising:
            return None
        accuracy = self._exam(number, standing, network, generator)
        return accuracy if has_stalled or is_mastered(accuracy) else None

    def _exam(self, number: int, standing: Standing, network: nn.Module, generator: torch.Generator) -> Interval:
        count = self._config.exam_problems
        problems = [draw_problem(standing.family, standing.level, generator) for _ in range(count)]
        return self.log.examine("exam", number, problems, network)

    def _earlier(self, count: int, generator: torch.Generator) -> list[Problem]:
        """Of levels that are left behind, half drawn anew, half of the model's own verified answers."""
        places = [(name, level) for name, standing in self.standings.items() for level in range(1, standing.level)]
        if not places:
            return []
        picked = [places[place] for place in torch.randint(len(places), (count,), generator=generator).tolist()]
        found = []
        for number, (family, level) in enumerate(picked):
            own = self._own.get((family, level), [])
            if own and number % 2:
                found.append(own[int(torch.randint(len(own), (1,), generator=generator))])
            else:
                found.append(draw_problem(family, level, generator))
        return found


class UniformPlan:
    """Every family and level alike, from the first step to the last. draw: count, generator -> problems."""

    is_over = is_at_start = False

    def __init__(self, draw: Callable[[int, torch.Generator], list[Problem]]) -> None:
        self.problems = draw

    def begin_round(self, number: int, network: nn.Module, generator: torch.Generator) -> None:
        """Nothing changes."""

    def state(self) -> dict[str, Any]:
        """There is none."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """There is none."""

"""The epoch loop: members act and settle by themselves, and all train and are validated as one program."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from esper.engine.growth import Growth
from esper.engine.population import Population
from esper.engine.reports import Score
from esper.engine.scores import Scores
from esper.engine.sharded import ShardedGrowth
from esper.engine.state.gradients import SeedGradients, note_seed_gradients
from esper.errors import EngineError
from esper.leyline import Action, EpochReport, TelemetryEvent

Validated = tuple[list[Score], list[dict[str, Score]]]  # each member's, and slot -> with the seed there left out
Seeds = Sequence[tuple[int, str]]  # (member, slot)


class EpochRunner:
    """Leads growths through their epochs.

    Growths that share a population are its views (see `esper.engine.state.view`), of the same batch size;
    what each of them becomes is what it would have become alone. What is returned has an entry a growth.

    Raises:
        EngineError: some views of the population are missing, which could not train without the others.
    """

    def __init__(self, growths: Sequence[Growth | ShardedGrowth]) -> None:
        self.growths = growths
        self._locals = [growth.local_growth for growth in growths]
        self._population: Population = self._locals[0].population.parent
        self._counts = [len(growth.population) for growth in self._locals]
        if sum(self._counts) != len(self._population):
            raise EngineError("some views of a population cannot train or be validated without the others")

    @property
    def done(self) -> bool:
        """Whether every epoch has been trained."""
        return all(growth.done for growth in self.growths)

    def reports(self) -> list[list[EpochReport]]:
        """Each member's last report; before its first epoch, that of its untrained host."""
        if any(growth.unreported for growth in self._locals):
            for growth, (validated, _) in zip(self._locals, self.validate(), strict=True):
                growth.report_untrained(validated)
        return [growth.reports() for growth in self.growths]

    def step(self, actions: Sequence[Sequence[Action]]) -> list[tuple[list[EpochReport], list[TelemetryEvent]]]:
        """Act, train one epoch, validate, and settle every seed's stage.

        Args: actions: one a member, for each growth. Returns: reports and events. Raises EngineError where ranks were
        given different actions.
        """
        self.reports()
        epochs = [growth.begin(asked) for growth, asked in zip(self.growths, actions, strict=True)]
        trained = self._train()
        validated = self.validate([growth.seeds_to_ablate() for growth in self._locals])
        gradients = self._seed_gradients()  # of all, before any settles: to put a member back changes the stacks of all
        for growth, epoch, scores, seen, of_seeds in zip(
            self._locals, epochs, trained, validated, gradients, strict=True
        ):
            growth.settle(epoch, scores, *seen, of_seeds)
        self._population.sync_topology()
        now = self.validate() if any(epoch.is_retired for epoch in epochs) else validated
        return [growth.conclude(epoch, seen[0]) for growth, epoch, seen in zip(self.growths, epochs, now, strict=True)]

    def test(self) -> list[Scores]:
        """Scores of every member on the test split."""
        x, y, source = self._split("test")
        scores = self._population.evaluate(x, y, source=source)[0]
        parts = zip(*(figure.split(self._counts) for figure in (scores.loss, scores.score, scores.rmse)), strict=True)
        return [growth.all_scores(Scores(*part)) for growth, part in zip(self.growths, parts, strict=True)]

    def validate(self, seeds: Sequence[Seeds] | None = None) -> list[Validated]:
        """Scores of this process's members on the validation split, and without these seeds, for each growth."""
        x, y, source = self._split("val")
        offsets = [growth.population.offset for growth in self._locals]
        asked = [
            (offset + member, slot)
            for offset, pairs in zip(offsets, seeds or [()] * len(offsets), strict=True)
            for member, slot in pairs
        ]
        with self._timed("validation"):
            scores, ablated, seconds = self._population.evaluate(x, y, asked, source)
            without: list[dict[str, Score]] = [{} for _ in self._population.models]
            for (member, slot), score in ablated.items():
                without[member][slot] = Score(*score)
            found = self._by_growth(scores)
        for growth in self._locals:
            growth.seconds["validation"] -= seconds
            growth.seconds["counterfactual"] = growth.seconds.get("counterfactual", 0.0) + seconds
        return [
            (seen, without[offset : offset + count])
            for offset, count, seen in zip(offsets, self._counts, found, strict=True)
        ]

    def _train(self) -> list[list[Score]]:
        """An epoch of training; every member's score over its steps."""
        growths = self._locals
        with self._timed("train"):
            places: dict[object, int] = {}
            place = [places.setdefault(growth.stream.position(), len(places)) for growth in growths]
            first = [growths[place.index(number)] for number in range(len(places))]
            drawn = [growth.stream.draw(growth.epoch) for growth in first]
            for growth, number in zip(growths, place, strict=True):
                if growth is not first[number]:  # it would have drawn the same
                    growth.stream.follow(first[number].stream)
            x, y, order = (_side_by_side([getattr(each, name) for each in drawn]) for name in ("x", "y", "order"))
            scores = self._population.train_epoch(
                x,
                y,
                order,
                growths[0].batch_size,
                [factor for growth in growths for factor in growth.rate_factors()],
                [
                    drawn[number].layers
                    for growth, number in zip(growths, place, strict=True)
                    for _ in growth.member_ids
                ],
                self._source(place, y.device),
                {growth.population.offset + m: steps for growth in growths for m, steps in growth.ends().items()},
            )
            return self._by_growth(scores)

    def _seed_gradients(self) -> list[SeedGradients]:
        """What is noted of the seeds' last gradients."""
        noted = note_seed_gradients(self._population)
        views = [(growth.population.offset, count) for growth, count in zip(self._locals, self._counts, strict=True)]
        return [
            {(e - offset, slot): seen for (e, slot), seen in noted.items() if offset <= e < offset + count}
            for offset, count in views
        ]

    def _split(self, name: str) -> tuple[Tensor, Tensor, Tensor | None]:
        """A split's inputs and targets, and which of several sets of them each member sees."""
        tasks = {id(growth.task): growth.task for growth in self._locals}
        place = [list(tasks).index(id(growth.task)) for growth in self._locals]
        x, y = (_side_by_side([getattr(task, f"{name}_{part}") for task in tasks.values()]) for part in "xy")
        return x, y, self._source(place, y.device)

    def _source(self, place: Sequence[int], device: torch.device) -> Tensor | None:
        if not any(place):
            return None
        numbers = [number for number, count in zip(place, self._counts, strict=True) for _ in range(count)]
        return torch.tensor(numbers, device=device)

    def _by_growth(self, scores: Scores) -> list[list[Score]]:
        found, offset = [], 0
        for growth, count in zip(self._locals, self._counts, strict=True):
            rows = slice(offset, offset + count)
            errors = growth.task.target_errors(scores.rmse[rows])
            figures = zip(scores.loss[rows].tolist(), scores.score[rows].tolist(), errors, strict=True)
            found.append([Score(*each) for each in figures])
            offset += count
        return found

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        """The work inside ends by reading results from the device, and so waits for it."""
        started = time.perf_counter()
        yield
        taken = time.perf_counter() - started
        for growth in self._locals:
            growth.seconds[part] = growth.seconds.get(part, 0.0) + taken


def _side_by_side(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(list(parts))

"""One epoch of several growths: each acts and settles by itself, and all train and are validated as one program.

Growths that share a population are its shares (see `esper.engine.share`), of the same batch size and lengths; what each
of them becomes is what it would have become alone.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from esper.engine.gradients import SeedGradients, note_seed_gradients
from esper.engine.population import Population, Scores
from esper.engine.reporting import Score
from esper.errors import EngineError
from esper.leyline import Action, EpochReport, TelemetryEvent

if TYPE_CHECKING:
    from esper.engine.growth import Growth

Validated = tuple[list[Score], list[dict[str, Score]]]  # each member's, and slot -> with the seed there left out
Live = Sequence[tuple[int, str]]  # (member, slot)


def step_together(
    growths: Sequence["Growth"], actions: Sequence[Sequence[Action]]
) -> list[tuple[list[EpochReport], list[TelemetryEvent]]]:
    """Act, train one epoch, validate, and settle every seed's stage. actions: one a member, for each growth."""
    start_together(growths)
    epochs = [growth.begin(asked) for growth, asked in zip(growths, actions, strict=True)]
    trained = train_together(growths)
    validated = validate_together(growths, [growth.measured() for growth in growths])
    gradients = _seed_gradients(growths)  # of all, before any settles: to put a member back changes the stacks of all
    for growth, epoch, scores, seen, of_seeds in zip(growths, epochs, trained, validated, gradients, strict=True):
        growth.settle(epoch, scores, *seen, of_seeds)
    growths[0].population.sync_topology()
    now = validate_together(growths) if any(epoch.is_retired for epoch in epochs) else validated
    return [growth.conclude(epoch, seen[0]) for growth, epoch, seen in zip(growths, epochs, now, strict=True)]


def start_together(growths: Sequence["Growth"]) -> None:
    """See that every member has a report: before its first epoch, that of its untrained host."""
    if any(growth.unreported for growth in growths):
        for growth, (validated, _) in zip(growths, validate_together(growths), strict=True):
            growth.report_untrained(validated)


def train_together(growths: Sequence["Growth"]) -> list[list[Score]]:
    """An epoch of training for each growth; every member's score over its steps."""
    whole = _whole(growths)
    with _timed(growths, "train"):
        places: dict[object, int] = {}
        place = [places.setdefault(growth.stream.position(), len(places)) for growth in growths]
        first = [growths[place.index(number)] for number in range(len(places))]
        drawn = [growth.stream.draw(growth.epoch) for growth in first]
        for growth, number in zip(growths, place, strict=True):
            if growth is not first[number]:  # it would have drawn the same
                growth.stream.follow(first[number].stream)
        x, y, order = (_side_by_side([getattr(each, name) for each in drawn]) for name in ("x", "y", "order"))
        scores = whole.train_epoch(
            x,
            y,
            order,
            growths[0].batch_size,
            [factor for growth in growths for factor in growth.rate_factors()],
            [drawn[number].layers for growth, number in zip(growths, place, strict=True) for _ in growth.everyone],
            _source(growths, place, x.device),
        )
        return _by_growth(growths, scores)


def validate_together(growths: Sequence["Growth"], live: Sequence[Live] | None = None) -> list[Validated]:
    """Each member's score on the validation split, and without the seeds in `live`, for each growth."""
    x, y, source = _split(growths, "val")
    firsts = [growth.population.first for growth in growths]
    asked = [
        (first + member, slot)
        for first, pairs in zip(firsts, live or [()] * len(growths), strict=True)
        for member, slot in pairs
    ]
    whole = _whole(growths)
    with _timed(growths, "validation"):
        scores, ablated, seconds = whole.evaluate(x, y, asked, source)
        without: list[dict[str, Score]] = [{} for _ in whole.models]
        for (member, slot), score in ablated.items():
            without[member][slot] = score
        found = _by_growth(growths, scores)
    for growth in growths:
        growth.seconds["validation"] -= seconds
        growth.seconds["counterfactual"] = growth.seconds.get("counterfactual", 0.0) + seconds
    return [
        (seen, without[first : first + len(growth.population)])
        for growth, first, seen in zip(growths, firsts, found, strict=True)
    ]


def _seed_gradients(growths: Sequence["Growth"]) -> list[SeedGradients]:
    """What is noted of the seeds' last gradients, for each growth."""
    noted = note_seed_gradients(_whole(growths))
    firsts = [(growth.population.first, len(growth.population)) for growth in growths]
    return [
        {(member - first, slot): seen for (member, slot), seen in noted.items() if first <= member < first + count}
        for first, count in firsts
    ]


def scores_on_test(growths: Sequence["Growth"]) -> list[Scores]:
    """Loss and accuracy of every member on the test split, for each growth."""
    x, y, source = _split(growths, "test")
    scores = _whole(growths).evaluate(x, y, source=source)[0]
    counts = [len(growth.population) for growth in growths]
    return [Scores(*pair) for pair in zip(scores.loss.split(counts), scores.accuracy.split(counts), strict=True)]


def _whole(growths: Sequence["Growth"]) -> Population:
    """The population that these growths are all of. Raises EngineError where some of its shares are missing."""
    whole = growths[0].population.whole
    if sum(len(growth.population) for growth in growths) != len(whole):
        raise EngineError("some of a population's shares cannot train or be validated without the others")
    return whole


def _split(growths: Sequence["Growth"], name: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """A split's inputs and targets, and which of several sets of them each member sees."""
    tasks = {id(growth.task): growth.task for growth in growths}
    place = [list(tasks).index(id(growth.task)) for growth in growths]
    x, y = (_side_by_side([getattr(task, f"{name}_{part}") for task in tasks.values()]) for part in "xy")
    return x, y, _source(growths, place, x.device)


def _side_by_side(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(list(parts))


def _source(growths: Sequence["Growth"], place: Sequence[int], device: torch.device) -> Tensor | None:
    if not any(place):
        return None
    numbers = [number for growth, number in zip(growths, place, strict=True) for _ in growth.everyone]
    return torch.tensor(numbers, device=device)


def _by_growth(growths: Sequence["Growth"], scores: Scores) -> list[list[Score]]:
    pairs = iter(zip(scores.loss.tolist(), scores.accuracy.tolist(), strict=True))
    return [[next(pairs) for _ in growth.everyone] for growth in growths]


@contextmanager
def _timed(growths: Sequence["Growth"], part: str) -> Iterator[None]:
    """The work inside ends by reading results from the device, and so waits for it."""
    started = time.perf_counter()
    yield
    taken = time.perf_counter() - started
    for growth in growths:
        growth.seconds[part] = growth.seconds.get(part, 0.0) + taken

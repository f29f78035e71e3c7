"""A population's passes over its task's data, and how long each part of them took."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from esper.engine.population import Population, Scores
from esper.engine.reporting import Score
from esper.tasks import Task
from esper.tasks.task import named_generator

STREAMS = ("order", "examples", "layers")


class Passes:
    """Trains and validates all members together.

    `generators` draw what all members share: the order of the examples, their distortions, and the seed of what layers
    such as Dropout draw. `seconds` holds wall time since it was last emptied, by part: train, validation,
    counterfactual.
    """

    def __init__(self, population: Population, task: Task, batch_size: int, seed: int) -> None:
        self.population = population
        self.task = task
        self.batch_size = batch_size
        self.seconds: dict[str, float] = {}
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Begin the streams of random numbers anew."""
        self.generators = {name: named_generator(seed, name) for name in STREAMS}

    def train(self, epoch: int, rate_factors: Sequence[float]) -> list[Score]:
        """One epoch, each member at this share of its learning rate; its score over its training steps."""
        with self._timed("train"):
            order = torch.randperm(self.task.epoch_size, generator=self.generators["order"])
            x, y = self.task.epoch_data(epoch, self.generators["examples"])
            layers = int(torch.randint(2**62, (), generator=self.generators["layers"]))
            order = order.to(x.device)
            return _by_member(self.population.train_epoch(x, y, order, self.batch_size, rate_factors, layers))

    def validate(self, live: Sequence[tuple[int, str]] = ()) -> tuple[list[Score], list[dict[str, Score]]]:
        """Each member's score, and slot -> its score with the seed there left out, for (member, slot) in `live`."""
        with self._timed("validation"):
            scores, ablated, seconds = self.population.evaluate(self.task.val_x, self.task.val_y, live)
            without: list[dict[str, Score]] = [{} for _ in self.population.models]
            for (member, slot), score in ablated.items():
                without[member][slot] = score
            found = _by_member(scores)
        self.seconds["validation"] -= seconds
        self.seconds["counterfactual"] = self.seconds.get("counterfactual", 0.0) + seconds
        return found, without

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        """The work inside ends by reading results from the device, and so waits for it."""
        started = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - started


def _by_member(scores: Scores) -> list[Score]:
    return list(zip(scores.loss.tolist(), scores.accuracy.tolist(), strict=True))

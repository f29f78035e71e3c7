"""Searches for the weights of a merge: CMA-ES, a genetic algorithm, and random search near the start as their control.

A strategy proposes a generation of points and is told how good they were (lower is better):

    result = run_search(make_strategy("cma_es", start, sigma=0.1, population=10, seed=0), evaluate, generations=20)

What a search has done is fully said by the fitnesses that it was told, since its proposals follow from them and the
seed: it is resumed by telling them again.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from esper.errors import CheckpointError, EsperError
from esper.tasks.task import named_generator

Evaluate = Callable[[Tensor], Tensor]  # [K, D] -> fitness [K]

_TOURNAMENT = 3
_BLEND = 0.5  # how far beyond its parents a child may lie, as a share of their distance
_MUTATION_RATE = 0.3  # chance of a coordinate to move
_ELITES = 2


class Strategy(Protocol):
    """Proposes points and learns from how good they were."""

    def ask(self) -> Tensor:
        """A generation of points, [K, D] float64."""

    def tell(self, points: Tensor, fitness: Tensor) -> None:
        """Learn the fitness [K] of the points that were last asked for; lower is better."""


class RandomSearch:
    """Gaussian points around the start, which nothing is learned from."""

    def __init__(self, start: Tensor, sigma: float, population: int, generator: torch.Generator) -> None:
        self.start, self.sigma, self.population, self.generator = start, sigma, population, generator

    def ask(self) -> Tensor:
        """K points, each drawn for itself."""
        return self.start + self.sigma * _normal((self.population, len(self.start)), self.generator)

    def tell(self, points: Tensor, fitness: Tensor) -> None:
        """Nothing is learned."""


class GeneticAlgorithm:
    """Tournament selection, blend crossover (Eshelman & Schaffer 1993), Gaussian mutation and elitism.

    Parents are the last generation and the best of all before it, which are not evaluated again; the first generation
    lies around the start. Mutations shrink by `decay` a generation.
    """

    def __init__(
        self, start: Tensor, sigma: float, population: int, generator: torch.Generator, decay: float = 0.95
    ) -> None:
        self.first = RandomSearch(start, sigma, population, generator)
        self.sigma, self.population, self.generator, self.decay = sigma, population, generator, decay
        self.parents = torch.empty(0, len(start), dtype=torch.float64)
        self.fitness = torch.empty(0, dtype=torch.float64)

    def ask(self) -> Tensor:
        """K children of the parents, all of them new points."""
        if not len(self.parents):
            return self.first.ask()
        one, other = self._select(), self._select()
        shape = one.shape
        share = torch.rand(shape, generator=self.generator, dtype=torch.float64) * (1 + 2 * _BLEND) - _BLEND
        moves = torch.rand(shape, generator=self.generator) < _MUTATION_RATE
        return one + share * (other - one) + self.sigma * moves * _normal(shape, self.generator)

    def tell(self, points: Tensor, fitness: Tensor) -> None:
        """The generation and the elite before it become the parents of the next."""
        elite = self.fitness.argsort(stable=True)[:_ELITES]
        self.parents = torch.cat([self.parents[elite], points])
        self.fitness = torch.cat([self.fitness[elite], fitness])
        self.sigma *= self.decay

    def _select(self) -> Tensor:
        """The winners of K tournaments, [K, D]."""
        rivals = torch.randint(len(self.parents), (self.population, _TOURNAMENT), generator=self.generator)
        winners = rivals.gather(1, self.fitness[rivals].argmin(1, keepdim=True)).squeeze(1)
        return self.parents[winners]


class CMAES:
    """Covariance matrix adaptation (Hansen 2016, arXiv:1604.00772), by the library `cma`."""

    def __init__(self, start: Tensor, sigma: float, population: int, generator: torch.Generator) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import cma  # takes a second, and no other phase needs it

            options = {
                "popsize": population,
                "seed": math.nan,  # the library's global generator is left alone
                "randn": lambda *shape: _normal(shape, generator).numpy(),
                "verbose": -10,
                "verb_log": 0,
                "verb_disp": 0,
            }
            self.strategy = cma.CMAEvolutionStrategy(start.tolist(), sigma, options)

    def ask(self) -> Tensor:
        """K points of the present distribution."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.stack([torch.from_numpy(point.copy()) for point in self.strategy.ask()])

    def tell(self, points: Tensor, fitness: Tensor) -> None:
        """Move the distribution towards the better half."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.strategy.tell(list(points.numpy()), fitness.tolist())


STRATEGIES: dict[str, Callable[[Tensor, float, int, torch.Generator], Strategy]] = {
    "cma_es": CMAES,
    "genetic": GeneticAlgorithm,
    "random": RandomSearch,
}


def make_strategy(name: str, start: Tensor, *, sigma: float, population: int, seed: int) -> Strategy:
    """One of `STRATEGIES`, around a start [D]; its first proposals have this standard deviation."""
    return STRATEGIES[name](start.double(), sigma, population, named_generator(seed, f"evomerge/{name}"))


@dataclass(frozen=True)
class SearchResult:
    """What a search has found.

    best: [D], the start where nothing was better. fitness: of the best. evaluations: points evaluated, start included.
    history: fitnesses of all generations so far, plain values: what resumes the search.
    """

    best: Tensor
    fitness: float
    evaluations: int
    history: list[list[float]]


def run_search(
    strategy: Strategy,
    start: Tensor,
    evaluate: Evaluate,
    generations: int,
    history: Sequence[Sequence[float]] = (),
    on_generation: Callable[[list[list[float]]], bool] = lambda history: True,
) -> SearchResult:
    """Evaluate the start and so many generations; a search that was stopped goes on as if it had not been.

    Args:
        strategy: a new one. start: [D]. history: of the same search, as far as it came.
        on_generation: called with the history so far after each generation that was evaluated; False stops.

    Raises:
        CheckpointError: the history is not one of this search. EsperError: a fitness is not a number.
    """
    known = [list(fitness) for fitness in history]
    if not known:
        known.append(_checked(evaluate(start[None].double())))
    best, best_fitness, evaluations = start.double(), known[0][0], 1
    for generation in range(1, generations + 1):
        points = strategy.ask()
        is_new = generation >= len(known)
        if is_new:
            known.append(_checked(evaluate(points)))
        elif len(known[generation]) != len(points):
            raise CheckpointError(
                f"generation {generation} of the search has {len(known[generation])} fitnesses, expected {len(points)}:"
                " it is of another configuration; start the phase anew"
            )
        fitness = torch.tensor(known[generation], dtype=torch.float64)
        strategy.tell(points, fitness)
        evaluations += len(points)
        if fitness.min() < best_fitness:
            best, best_fitness = points[fitness.argmin()].clone(), float(fitness.min())
        if is_new and not on_generation(known):
            break
    return SearchResult(best, best_fitness, evaluations, known)


def _checked(fitness: Tensor) -> list[float]:
    if not fitness.isfinite().all():
        raise EsperError("a merged model's loss is no number: lower evomerge.sigma")
    return fitness.double().tolist()


def _normal(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)

"""Searches find what is better, spend the same, leave global state alone, and resume exactly."""

import warnings

import numpy as np
import pytest
import torch

from esper.errors import CheckpointError, EsperError
from esper.forge.evomerge.search import STRATEGIES, SearchResult, make_strategy, run_search

D, POPULATION = 12, 10
START = torch.full((D,), 1 / 3)
TARGET = START + 0.3 * torch.sin(torch.arange(D))


def bowl(points: torch.Tensor) -> torch.Tensor:
    scale = torch.logspace(0, 1, D, dtype=torch.float64)
    return (scale * (points - TARGET) ** 2).sum(1)


def search(name: str, seed: int = 0, generations: int = 15, **options) -> SearchResult:
    strategy = make_strategy(name, START, sigma=0.1, population=POPULATION, seed=seed)
    return run_search(strategy, START, options.pop("evaluate", bowl), generations, **options)


def test_what_learns_beats_random_search_at_equal_evaluations():
    best = {name: np.median([search(name, seed).fitness for seed in range(5)]) for name in STRATEGIES}
    counts = {search(name).evaluations for name in STRATEGIES}
    assert counts == {1 + 15 * POPULATION}
    start = float(bowl(START[None].double()))
    assert best["random"] < start
    assert best["cma_es"] < 0.7 * best["random"]
    assert best["genetic"] < 0.7 * best["random"]


@pytest.mark.parametrize("name", STRATEGIES)
def test_evaluations_are_those_that_are_counted(name):
    seen = []
    result = search(name, evaluate=lambda points: seen.append(len(points)) or bowl(points))
    assert sum(seen) == result.evaluations == sum(map(len, result.history))
    assert float(bowl(result.best[None])) == result.fitness == min(map(min, result.history))


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_search_that_was_stopped_ends_where_it_would_have_ended(name):
    whole = search(name)
    stopped = search(name, on_generation=lambda history: len(history) < 7)
    assert len(stopped.history) == 7
    new = []
    resumed = search(name, history=stopped.history, evaluate=lambda points: new.append(points) or bowl(points))
    assert torch.equal(resumed.best, whole.best)
    assert resumed.history == whole.history
    assert len(new) == 15 - 6  # nothing is evaluated twice


@pytest.mark.parametrize("name", STRATEGIES)
def test_global_generators_and_warnings_are_left_alone(name, capfd):
    np.random.seed(3)
    before, torch_before = np.random.get_state()[1].copy(), torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search(name, generations=3)
    assert np.array_equal(np.random.get_state()[1], before)
    assert torch.equal(torch.random.get_rng_state(), torch_before)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_seed_decides_the_search(name):
    assert torch.equal(search(name, 1).best, search(name, 1).best)
    assert not torch.equal(search(name, 1).best, search(name, 2).best)


def test_where_nothing_is_better_the_start_wins():
    result = search("genetic", evaluate=lambda points: (points - START).abs().sum(1))
    assert torch.equal(result.best, START.double())


def test_genetic_elites_are_kept_and_not_evaluated_again():
    strategy = make_strategy("genetic", START, sigma=0.1, population=4, seed=0)
    points = strategy.ask()
    strategy.tell(points, torch.tensor([3.0, 0.0, 2.0, 1.0]))
    strategy.tell(strategy.ask(), torch.full((4,), 9.0))
    assert torch.equal(strategy.parents[:2], points[[1, 3]])
    assert not any((child == points).all(1).any() for child in strategy.ask())


def test_a_history_of_another_search_is_refused():
    history = search("random", generations=2).history
    history[1].pop()
    with pytest.raises(CheckpointError, match="9 fitnesses, expected 10"):
        search("random", history=history)


def test_a_loss_that_is_no_number_is_said():
    with pytest.raises(EsperError, match=r"evomerge\.sigma"):
        search("random", evaluate=lambda points: torch.full((len(points),), torch.nan))

"""NSGA-II against what is known of it, and against pymoo's."""

import numpy as np
import pytest
import torch

from esper.forge.experts.nsga2 import (
    crowding_distances,
    hypervolume,
    non_dominated_ranks,
    nsga2,
    polynomial_mutation,
    simulated_binary_crossover,
)
from esper.tasks.task import named_generator

REFERENCE = torch.tensor([1.1, 1.1])


def zdt1(points):
    """Zitzler, Deb & Thiele 2000; its front is 1 - sqrt(x)."""
    g = 1 + 9 * points[:, 1:].mean(1)
    return torch.stack((points[:, 0], g * (1 - (points[:, 0] / g).sqrt())), 1)


def uniform(count, width, seed=0):
    return torch.rand(count, width, generator=named_generator(seed, "uniform"), dtype=torch.float64)


def test_ranks_are_pymoos():
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

    aims = uniform(60, 3).mul(6).round()  # with ties
    fronts = NonDominatedSorting().do(aims.numpy())
    ranks = non_dominated_ranks(aims)
    for number, front in enumerate(fronts):
        assert sorted(front.tolist()) == (ranks == number).nonzero()[:, 0].tolist()


def test_crowding_distances_by_hand():
    aims = torch.tensor([[0.0, 4.0], [1.0, 2.0], [4.0, 0.0], [2.0, 1.0]])
    assert crowding_distances(aims).tolist() == [np.inf, 0.5 + 0.75, np.inf, 0.75 + 0.5]


@pytest.mark.parametrize("width", [2, 3, 4])
def test_hypervolumes_are_pymoos(width):
    from pymoo.indicators.hv import HV

    aims = 1.3 * uniform(25, width, seed=width)
    expected = float(HV(ref_point=np.ones(width))(aims.numpy()))
    assert hypervolume(aims, torch.ones(width)) == pytest.approx(expected)
    assert hypervolume(aims + 2, torch.ones(width)) == 0.0


@pytest.mark.slow
def test_it_finds_the_front_of_zdt1_as_pymoo_does():
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.optimize import minimize
    from pymoo.problems.multi import ZDT1

    count, generations, width = 24, 80, 10
    peer = minimize(ZDT1(n_var=width), NSGA2(pop_size=count), ("n_gen", generations), seed=1)
    theirs = hypervolume(torch.from_numpy(peer.F), REFERENCE)
    found = nsga2(zdt1, uniform(count, width), generations - 1, named_generator(0, "nsga2"))
    ours = hypervolume(found.aims[found.front], REFERENCE)
    assert len(found.points) == count * generations
    random = hypervolume(zdt1(uniform(count * generations, width, seed=3)), REFERENCE)
    assert ours >= 0.98 * theirs > random


def test_children_stay_in_the_cube_around_their_parents():
    parents = uniform(4000, 1)
    children = simulated_binary_crossover(parents, named_generator(0, "crossover"))
    assert children.min() >= 0 and children.max() <= 1
    middles = [(each[0::2] + each[1::2]) / 2 for each in (parents, children)]
    inner = ((parents[0::2] - 0.5).abs() < 0.2) & ((parents[1::2] - 0.5).abs() < 0.2)  # far from the walls
    assert (middles[0] - middles[1])[inner].abs().max() < 0.02
    assert not torch.equal(parents, children)


def test_mutations_move_one_coordinate_in_so_many_and_mostly_a_little():
    points = uniform(500, 10)
    moved = polynomial_mutation(points, named_generator(0, "mutation"))
    assert moved.min() >= 0 and moved.max() <= 1
    assert (moved != points).float().mean() == pytest.approx(0.1, abs=0.02)
    assert (moved - points)[moved != points].abs().median() < 0.1


def test_on_a_grid_no_point_is_evaluated_twice():
    found = nsga2(zdt1, uniform(8, 3), 6, named_generator(0, "grid"), grid=4)
    assert torch.equal((found.points * 4).round(), found.points * 4)
    assert len({tuple(point) for point in found.points[8:].tolist()}) == len(found.points) - 8

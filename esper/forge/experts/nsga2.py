"""NSGA-II: a search by several aims at once (Deb et al. 2002), and the hypervolume by which searches are compared.

All aims are to be small. Points lie in the unit cube.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

CROSSOVER_ETA, MUTATION_ETA = 15.0, 20.0  # how close children stay to their parents: as is usual
CROSSOVER_RATE = 0.9
_ATTEMPTS = 20  # at children that were not seen before

Evaluate = Callable[[Tensor], Tensor]  # points [N, D] -> aims [N, A]


def dominance(aims: Tensor) -> Tensor:
    """Which point is no worse than which in all aims and better in one. Args: [N, A]. Returns: bool [N, N]."""
    one, other = aims[:, None], aims[None]
    return (one <= other).all(-1) & (one < other).any(-1)


def non_dominated_ranks(aims: Tensor) -> Tensor:
    """The front of each point, 0 for those that none dominates. Args: [N, A]. Returns: [N] int64.

    Fast non-dominated sorting: each point's dominators are counted once, and counted down as fronts are taken away.
    """
    dominates = dominance(aims)
    left = dominates.sum(0)
    ranks = torch.full((len(aims),), -1)
    front = 0
    while (ranks < 0).any():
        now = (left == 0) & (ranks < 0)
        ranks[now] = front
        left = left - dominates[now].sum(0)
        front += 1
    return ranks


def crowding_distances(aims: Tensor) -> Tensor:
    """How far each point's neighbours in its front are apart; infinite at the ends. Args: [N, A]. Returns: [N]."""
    distances = torch.zeros(len(aims), dtype=torch.float64)
    for aim in aims.double().unbind(1):
        order = aim.argsort(stable=True)
        values = aim[order]
        distances[order[[0, -1]]] = math.inf
        if len(aims) > 2 and values[-1] > values[0]:
            distances[order[1:-1]] += (values[2:] - values[:-2]) / (values[-1] - values[0])
    return distances


def _standing(aims: Tensor) -> tuple[Tensor, Tensor]:
    """Rank and crowding distance of each, [N] each."""
    ranks = non_dominated_ranks(aims)
    crowding = torch.zeros(len(aims), dtype=torch.float64)
    for front in ranks.unique():
        members = (ranks == front).nonzero()[:, 0]
        crowding[members] = crowding_distances(aims[members])
    return ranks, crowding


@dataclass
class Evaluated:
    """All points that were evaluated, [N, D], and their aims, [N, A]."""

    points: Tensor
    aims: Tensor

    @property
    def front(self) -> Tensor:
        """Numbers of the points that none dominates."""
        return (~dominance(self.aims).any(0)).nonzero()[:, 0]


def nsga2(
    evaluate: Evaluate,
    start: Tensor,
    generations: int,
    generator: torch.Generator,
    grid: int | None = None,
    crossover_eta: float = CROSSOVER_ETA,
    mutation_eta: float = MUTATION_ETA,
) -> Evaluated:
    """Evaluate a first population [N, D] and as many children in each generation, none of them twice.

    Args: grid: parts of the cube's edge that points are rounded to; None: none. etas: the lower, the wider children
    are spread.
    """
    population = _on_grid(start.double(), grid)
    aims = evaluate(population)
    points, found = population, aims
    for _ in range(generations):
        standing = _standing(aims)
        children = points[:0]
        for _ in range(_ATTEMPTS):
            pairs = population[_tournament(*standing, 2 * len(start), generator)]
            bred = simulated_binary_crossover(pairs, generator, crossover_eta)
            bred = _on_grid(polynomial_mutation(bred, generator, mutation_eta), grid)
            children = _new(torch.cat((children, bred)), points)[: len(start)]
            if len(children) == len(start):
                break
        if not len(children):
            break
        children_aims = evaluate(children)
        points, found = torch.cat((points, children)), torch.cat((found, children_aims))
        population, aims = torch.cat((population, children)), torch.cat((aims, children_aims))
        ranks, crowding = _standing(aims)
        order = (-crowding).argsort(stable=True)
        kept = order[ranks[order].argsort(stable=True)][: len(start)]
        population, aims = population[kept], aims[kept]
    return Evaluated(points, found)


def _on_grid(points: Tensor, grid: int | None) -> Tensor:
    return points if grid is None else (points * grid).round() / grid


def _new(children: Tensor, known: Tensor) -> Tensor:
    """Those that are not known, each once, in their order."""
    seen = {tuple(point) for point in known.tolist()}
    kept = []
    for place, child in enumerate(map(tuple, children.tolist())):
        if child not in seen:
            seen.add(child)
            kept.append(place)
    return children[kept]


def _tournament(ranks: Tensor, crowding: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Winners of pairs: by rank, then by room around them."""
    one, other = torch.randint(len(ranks), (2, count), generator=generator)
    is_one = (ranks[one] < ranks[other]) | ((ranks[one] == ranks[other]) & (crowding[one] >= crowding[other]))
    return torch.where(is_one, one, other)


def simulated_binary_crossover(parents: Tensor, generator: torch.Generator, eta: float = CROSSOVER_ETA) -> Tensor:
    """Pairs of children around pairs of parents [2N, D], within the unit cube (Deb & Agrawal 1995)."""
    one, other = parents[0::2], parents[1::2]
    low, high = torch.minimum(one, other), torch.maximum(one, other)
    u = torch.rand(one.shape, generator=generator, dtype=torch.float64)
    gap = (high - low).clamp(min=1e-14)

    def spread(room: Tensor) -> Tensor:
        """How far apart, in units of the parents' gap, so that none leaves on the side that has this room."""
        alpha = 2 - (1 + 2 * room / gap) ** -(eta + 1)
        inside = u <= 1 / alpha
        return torch.where(inside, u * alpha, 1 / (2 - u * alpha).clamp(min=1e-14)) ** (1 / (eta + 1))

    middle = low + high
    children = ((middle - spread(low) * gap) / 2, (middle + spread(1 - high) * gap) / 2)
    swaps = torch.rand(one.shape, generator=generator) < 0.5
    lower, upper = torch.where(swaps, children[1], children[0]), torch.where(swaps, children[0], children[1])
    moves = torch.rand(one.shape, generator=generator) < 0.5
    moves &= torch.rand(len(one), 1, generator=generator) < CROSSOVER_RATE
    found = torch.empty_like(parents)
    found[0::2], found[1::2] = torch.where(moves, lower, one), torch.where(moves, upper, other)
    return found.clamp(0, 1)


def polynomial_mutation(points: Tensor, generator: torch.Generator, eta: float = MUTATION_ETA) -> Tensor:
    """Each coordinate moves with a chance of one in D, mostly a little, within the unit cube (Deb & Goyal 1996)."""
    u = torch.rand(points.shape, generator=generator, dtype=torch.float64)
    power = 1 / (eta + 1)
    down = (2 * u + (1 - 2 * u) * (1 - points) ** (eta + 1)) ** power - 1
    up = 1 - (2 * (1 - u) + (2 * u - 1) * points ** (eta + 1)) ** power
    moves = torch.rand(points.shape, generator=generator) < 1 / points.shape[1]
    return (points + moves * torch.where(u < 0.5, down, up)).clamp(0, 1)


def hypervolume(aims: Tensor, reference: Tensor) -> float:
    """The volume of what is dominated, up to a reference point [A].

    Args: aims: [N, A]; those beyond the reference count for nothing.
    """
    inside = aims.double()[(aims.double() < reference.double()).all(1)]
    if not len(inside):
        return 0.0
    inside = inside[~dominance(inside).any(0)].unique(dim=0)
    if inside.shape[1] == 1:
        return float(reference[0] - inside.min())
    inside = inside[inside[:, -1].argsort(stable=True)]
    edges = [*inside[:, -1].tolist(), float(reference[-1])]
    return sum(
        (upper - lower) * hypervolume(inside[: number + 1, :-1], reference[:-1])
        for number, (lower, upper) in enumerate(pairwise(edges))
        if upper > lower
    )

"""Statistics of gradients, one row a member, straight from the stacks."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from esper.engine.optimizer import flat_rows
from esper.engine.population import Population
from esper.engine.stacks import HOST
from esper.leyline.gradients import GradientStatistics, gradient_statistics

SeedGradients = dict[tuple[int, str], tuple[float, float, bool, bool]]


def row_statistics(gradients: Iterable[Tensor]) -> GradientStatistics:
    """Statistics over tensors [R, ...] of one stack; nothing waits for the device."""
    return gradient_statistics(torch.stack([flat_rows(grad).norm(dim=1) for grad in gradients]))  # [P, R]


def note_seed_gradients(population: Population) -> SeedGradients:
    """(member, slot) -> mean norm, health, vanishing, exploding of the seed's last gradients.

    Their size beside the host's, and whether they are finite, goes into the seed's state at once: gates ask for it.
    """
    found: SeedGradients = {}
    of_hosts = population.last_gradients.get(HOST)  # none where the hosts are frozen
    host = row_statistics(of_hosts.values()).total_norm if of_hosts else torch.zeros(len(population))
    for name, gradients in population.last_gradients.items():
        if name == HOST or name.endswith(".gate") or not gradients:
            continue
        stack, slot = population.stacks[name], name.split(".")[1]
        statistics = row_statistics(gradients.values())
        ratios = statistics.total_norm / (host[stack.members] + 1e-12)
        columns = (statistics.mean_norm, statistics.health, statistics.has_vanishing, statistics.has_exploding)
        for member, ratio, *figures in zip(stack.members, *(c.tolist() for c in (ratios, *columns)), strict=True):
            state = population.models[member].slots[slot].state
            assert state is not None
            norm, health, vanishing, exploding = figures
            state.is_healthy &= math.isfinite(norm)
            state.metrics.seed_gradient_norm_ratio = ratio if math.isfinite(ratio) else 0.0
            found[member, slot] = (norm if math.isfinite(norm) else 0.0, health, vanishing, exploding)
    return found

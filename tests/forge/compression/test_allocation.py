import itertools

import pytest
import torch

from esper.errors import CompressionError
from esper.forge.compression.allocation import Candidate, allocate, candidates_for
from esper.forge.compression.codec import Encoded, Statistics
from esper.forge.compression.config import GroupConfig


def options(*pairs):
    return [Candidate(Encoded("plain", {}, (), {}), size, loss) for size, loss in pairs]


def curves(seed, tensors=4, points=5):
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(10, 100, (tensors, points), generator=generator).cumsum(1)
    losses = torch.rand(tensors, points, generator=generator).cumsum(1).flip(1)
    return {str(t): options(*zip(sizes[t].tolist(), losses[t].tolist(), strict=True)) for t in range(tensors)}


@pytest.mark.parametrize("seed", range(8))
def test_is_near_the_best_choice_there_is(seed):
    candidates = curves(seed)
    budget = 700
    best = min(
        sum(c.distortion for c in choice)
        for choice in itertools.product(*candidates.values())
        if sum(c.num_bytes for c in choice) <= budget
    )
    chosen = allocate(candidates, budget).values()
    assert sum(c.num_bytes for c in chosen) <= budget
    assert sum(c.distortion for c in chosen) <= 1.15 * best


def test_the_tensor_that_minds_most_gets_the_bytes():
    candidates = {"hard": options((10, 5.0), (20, 1.0)), "easy": options((10, 0.5), (20, 0.1))}
    chosen = allocate(candidates, 30)
    assert chosen["hard"].num_bytes == 20 and chosen["easy"].num_bytes == 10


def test_too_few_bytes_are_refused_with_how_many_it_takes():
    with pytest.raises(CompressionError, match=r"19 bytes are too few.*need 20"):
        allocate({"a": options((10, 1.0)), "b": options((10, 1.0), (30, 0.0))}, 19)


def test_candidates_know_their_loss():
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    cares = Statistics(torch.eye(64), torch.ones(16))
    coarse, fine = candidates_for(weight, cares, [("group", GroupConfig(bits=bits)) for bits in (3, 8)])
    assert coarse.num_bytes < fine.num_bytes and coarse.distortion > 100 * fine.distortion

"""A generation as one program gives the losses of its models one by one."""

import math

import pytest
import torch
from torch import nn

from esper.forge.evomerge.batched_decoder import BatchedDecoder
from esper.forge.evomerge.evaluating import MergeEvaluator, Windows, load_state, state_of, window_nats
from esper.forge.evomerge.groups import group_names, layer_groups
from esper.forge.evomerge.methods import task_vectors
from esper.forge.evomerge.search import make_strategy, run_search
from esper.kasmina.decoder import Decoder
from tests.forge.evomerge.conftest import LENGTH

K = 10


def windows_of(family, split="val", count=5) -> Windows:
    return Windows.spread(family.streams[split], LENGTH, count, family.token_bytes)


def evaluator_of(family, network: nn.Module | None = None, **options) -> MergeEvaluator:
    trunk = state_of(family.trunk)
    vectors = task_vectors(trunk, [state_of(specialist) for specialist in family.specialists.values()])
    return MergeEvaluator(network or family.trunk, trunk, vectors, layer_groups(trunk), windows_of(family, **options))


def soup(evaluator: MergeEvaluator) -> torch.Tensor:
    groups = len(group_names(layer_groups(evaluator.merged(torch.zeros(3 * 6)))))
    return torch.full((3 * groups,), 1 / 3, dtype=torch.float64)


@pytest.mark.slow
def test_a_generation_gives_the_losses_of_its_models_one_by_one(family):
    evaluator = evaluator_of(family)
    points = soup(evaluator) + 0.3 * torch.randn(K, 18, generator=torch.Generator().manual_seed(0))
    together, alone = evaluator.window_nats(points), evaluator.window_nats_one_by_one(points)
    assert together.shape == (K, 15)
    assert alone.std(0).mean() > 0.1  # they are different models
    torch.testing.assert_close(together / LENGTH, alone / LENGTH, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("window", "width", "heads"), [(None, 48, 3), (5, 32, 1), (200, 32, 2)])
def test_the_batched_decoder_is_the_decoder(window, width, heads):
    generator = torch.Generator().manual_seed(1)
    networks = [Decoder(264, width, heads, 3, 40, window=window, generator=generator) for _ in range(3)]
    with torch.no_grad():
        for parameter in (parameter for network in networks for parameter in network.parameters()):
            parameter.mul_(1 + 0.3 * torch.rand(parameter.shape, generator=generator))  # gains, too
    x, y = torch.randint(264, (2, 17, 40), generator=generator)
    stacked = {name: torch.stack([state_of(each)[name] for each in networks]) for name in state_of(networks[0])}
    program = BatchedDecoder(networks[0])
    nats = program.window_nats(program.to_layout(stacked), x, y)
    windows = Windows(x, y, torch.full((17,), 40), ("all",))
    for k, network in enumerate(networks):
        torch.testing.assert_close(nats[k] / 40, window_nats(network, windows) / 40, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_network_that_has_grown_is_run_model_by_model(family):
    grown = Decoder(264, 32, 2, 2, LENGTH)
    grown.slots["block1"] = nn.Hardtanh(-0.5, 0.5)  # without weights: the trunk's tensors fit
    plain, evaluator = evaluator_of(family), evaluator_of(family, grown)
    points = soup(evaluator).expand(2, -1)
    assert torch.equal(evaluator.window_nats(points), evaluator.window_nats_one_by_one(points))
    assert not torch.allclose(evaluator.window_nats(points), plain.window_nats(points), rtol=1e-3)


def test_the_corners_are_trunk_and_specialists(family):
    evaluator = evaluator_of(family)
    corners = torch.cat([torch.zeros(1, 18), torch.eye(3).repeat_interleave(6, 1)])
    nats = evaluator.window_nats(corners)
    for row, network in zip(nats, [family.trunk, *family.specialists.values()], strict=True):
        torch.testing.assert_close(row / LENGTH, window_nats(network, evaluator.windows) / LENGTH, rtol=0, atol=1e-5)


def test_bits_per_byte_are_of_each_domain():
    windows = Windows(torch.zeros(4, 2), torch.zeros(4, 2), torch.tensor([2, 2, 4, 1]), ("a", "b"))
    found = windows.bits_per_byte(math.log(2) * torch.tensor([[4.0, 8.0, 5.0, 5.0]]))
    torch.testing.assert_close(found, torch.tensor([[3.0, 2.0]], dtype=torch.float64))


def test_windows_are_spread_over_each_stream_and_special_tokens_are_no_bytes(family):
    streams = {"short": torch.arange(100), "long": torch.full((1000,), 257)}
    windows = Windows.spread(streams, 10, 4, family.token_bytes)
    assert windows.x[:4, 0].tolist() == [0, 20, 50, 80]
    assert torch.equal(windows.y[:4], windows.x[:4] + 1)
    assert windows.byte_counts.tolist() == [10] * 4 + [0] * 4
    assert len(Windows.spread(streams, 10, 500, family.token_bytes).x) == 2 * 9  # as many of each


@pytest.mark.slow
def test_a_search_of_merges_beats_the_soup_on_text_that_it_has_not_seen(family):
    evaluator, unseen = evaluator_of(family, count=40), evaluator_of(family, split="test", count=60)
    start = soup(evaluator)
    strategy = make_strategy("cma_es", start, sigma=0.1, population=K, seed=0)
    found = run_search(strategy, start, evaluator.fitness, generations=8)
    corners = torch.stack([torch.zeros_like(start), start, found.best])
    trunk, soup_fitness, best = unseen.fitness(corners).tolist()
    assert best < soup_fitness < trunk
    network = Decoder(264, 32, 2, 2, LENGTH)
    load_state(network, evaluator.merged(found.best))
    nats = window_nats(network.eval(), unseen.windows)
    assert float(unseen.windows.bits_per_byte(nats).mean()) == pytest.approx(best, abs=1e-5)

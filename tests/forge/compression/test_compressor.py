"""Whole networks: sizes that are met, and what they cost against the plainest codec."""

import copy
import math

import pytest
import torch

from esper.errors import CompressionError
from esper.forge.compression.calibration import calibrate
from esper.forge.compression.compressor import FILE_OVERHEAD_BYTES, Compressor, compress_packed
from esper.forge.compression.container import decompress
from esper.tasks.text.windows import every_window
from tests.forge.compression.conftest import LENGTH, nats


@pytest.fixture(scope="module")
def compressor(network, text):
    x, y = every_window(text["val"], LENGTH)
    return Compressor(network.state_dict(), calibrate(network, x[:64], y[:64]))


def score(packed, network, text):
    """exp(-ΔNLL) on the test split of the network that these bytes are."""
    decoded = copy.deepcopy(network)
    decoded.load_state_dict(decompress(packed)[1])
    return math.exp(nats(network, text["test"]) - nats(decoded, text["test"]))


@pytest.fixture(scope="module")
def size(network):
    return 4 * sum(p.numel() for p in network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [7, 10])
def test_a_size_is_met_and_hardly_undercut(compressor, size, ratio):
    budget = size // ratio
    found = len(compressor.at(budget, ["grid"])) + FILE_OVERHEAD_BYTES
    assert 0.98 * budget < found <= budget


def test_costs_less_than_rounding_at_the_same_size(compressor, network, text, size):
    ours, nearest = (score(compressor.at(size // 8, [family]), network, text) for family in ("grid", "nearest"))
    assert ours > 0.97
    assert 1 - ours < 0.5 * (1 - nearest)


def test_several_codecs_cost_no_more_than_each_alone(compressor, network, text, size):
    alone = [score(compressor.at(size // 8, [family]), network, text) for family in ("grid", "group")]
    assert score(compressor.at(size // 8, ["grid", "group"]), network, text) >= max(alone) - 0.005


def test_the_gentlest_is_nearly_the_network(compressor, network, text):
    assert score(compressor.gentlest(), network, text) > 0.999


def test_a_size_that_cannot_be_is_refused(compressor):
    with pytest.raises(CompressionError, match="too few"):
        compressor.at(1000, ["group"])


def test_packed_weights_are_kept_exactly():
    trits = torch.randint(243, (400,), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    tensors = {"layer.trits": trits, "layer.scale": torch.tensor(0.037), "embedding.weight": torch.randn(8, 64).half()}
    format, found = decompress(compress_packed(tensors, "ternary"))
    assert format == "ternary" and torch.equal(found["layer.trits"], trits)
    assert torch.equal(found["layer.scale"], tensors["layer.scale"])
    assert (found["embedding.weight"] - tensors["embedding.weight"].float()).abs().max() < 0.02

"""A packed decoder that writes on: the native step against whole sequences, and without a compiler."""

import copy

import pytest
import torch

from esper.engine.kernels import ternary
from esper.forge.bitnet.decoding import NativeCache, PackedDecoder
from esper.forge.bitnet.packing import pack_network, unpack_network
from esper.forge.bitnet.quantizer import quantize_layers
from esper.kasmina.decoder import Decoder
from esper.tasks.task import named_generator

LENGTH = 24


def made(window: int | None = None) -> PackedDecoder:
    plain = Decoder(50, 32, 2, 2, LENGTH, window, generator=named_generator(0, "decoder"))
    packed = unpack_network(copy.deepcopy(plain), pack_network(quantize_layers(plain), "int8"))
    assert isinstance(packed, Decoder)
    return PackedDecoder.of(packed)


@pytest.mark.parametrize("kernel", ["native", "torch"])
@pytest.mark.parametrize("window", [None, 7])
def test_writing_on_gives_what_whole_sequences_give(monkeypatch, window, kernel):
    if kernel == "torch":
        monkeypatch.setattr(ternary, "load", lambda: (None, "no compiler"))
    elif ternary.load()[0] is None:
        pytest.skip(ternary.load()[1])
    network = made(window)
    tokens = torch.randint(50, (3, LENGTH), generator=named_generator(0, "tokens"))
    expected = network(tokens)
    cache = network.new_cache()
    assert isinstance(cache, NativeCache) == (kernel == "native")
    parts = [network.extend(tokens[:, :9], cache), network.extend(tokens[:, 9:10], cache)]
    parts.append(network.extend(tokens[:, 10:], cache))
    apart = (torch.cat(parts, 1) - expected).abs()
    assert (apart < 1e-4).float().mean() > 0.8 and apart.max() < 0.02 * expected.abs().max()
    with pytest.raises(ValueError, match=f"exceed block_size={LENGTH}"):
        network.extend(tokens[:, :1], cache)


def test_it_is_the_decoder_that_it_was():
    network = made()
    assert network.architecture()["name"] == "decoder"
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    assert torch.equal(copy.deepcopy(network)(tokens), network(tokens))

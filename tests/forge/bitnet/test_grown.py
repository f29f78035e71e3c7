"""What has grown in a decoder is quantised and packed with the rest of it."""

import copy

import torch
from torch import nn

from esper.forge.bitnet.decoding import PackedDecoder
from esper.forge.bitnet.packing import pack_network, round_embedding, unpack_network
from esper.forge.bitnet.quantizer import quantize_layers, quantized_layers
from esper.kasmina import Decoder
from tests.forge.models import network


def grown() -> Decoder:
    """A decoder with a wide MLP and attention in its slots, none of whose layers is as it was born."""
    decoder = network()
    decoder.settle("block1", "mlp")
    decoder.settle("block2", "attention", 0.5)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in decoder.slots.parameters():
            parameter.normal_(std=0.1, generator=generator)
    return decoder.eval()


TOKENS = torch.randint(264, (3, 32), generator=torch.Generator().manual_seed(0))


def test_every_linear_layer_of_what_has_grown_is_ternary_and_comes_back_from_its_file():
    plain = grown()
    quantized = quantize_layers(copy.deepcopy(plain)).eval()
    names = [name for name, _ in quantized_layers(quantized) if name.startswith("slots.")]
    assert len(names) == len([m for m in plain.slots.modules() if isinstance(m, nn.Linear)]) == 4
    round_embedding(quantized, "int8")
    tensors = pack_network(quantized, "int8")
    assert all(tensors[f"{name}.trits"].dtype is torch.uint8 and f"{name}.weight" not in tensors for name in names)
    with torch.no_grad():
        expected = quantized(TOKENS)
        back = PackedDecoder.of(unpack_network(grown(), tensors))
        assert torch.equal(back(TOKENS), expected) and torch.equal(copy.deepcopy(back)(TOKENS), expected)
        assert not torch.equal(expected, plain(TOKENS))

"""Packed networks: what their file holds, and the network that comes back from it alone."""

import copy

import pytest
import torch

from esper.checkpoint import Checkpoint, read_bundle, write_bundle
from esper.engine.kernels import ternary
from esper.errors import CheckpointError, EsperError
from esper.forge.architectures import plain_bytes
from esper.forge.bitnet.packing import pack_embedding, pack_network, round_embedding, unpack_network
from esper.forge.bitnet.quantizer import quantize_layers
from tests.forge.bitnet.networks import VOCAB, TinyDecoder, tokens


@pytest.fixture
def quantized():
    return quantize_layers(TinyDecoder()).eval()


@pytest.fixture
def packed(quantized):
    return pack_network(quantized, "int8")


@pytest.mark.parametrize("embedding", ["fp16", "int8"])
@pytest.mark.parametrize("kernel", ["native", "torch"])
def test_a_network_comes_back_from_its_file_as_it_was(quantized, tmp_path, monkeypatch, embedding, kernel):
    if kernel == "torch":
        monkeypatch.setattr(ternary, "load", lambda: (None, "no compiler"))
    round_embedding(quantized, embedding)
    write_bundle(tmp_path / "model", Checkpoint(tensors=pack_network(quantized, embedding)))
    back = unpack_network(TinyDecoder(), read_bundle(tmp_path / "model").tensors)
    assert torch.equal(back(tokens()), quantized(tokens()))
    moved = copy.deepcopy(back).to("cpu")
    assert torch.equal(moved(tokens()), quantized(tokens()))


def test_an_embedding_is_rounded_as_by_hand():
    weight = torch.tensor([[1.0, -0.5, 0.25], [0.0, 0.0, 0.0]])
    found = pack_embedding(weight, "int8")
    assert found["embedding.weight"].tolist() == [[127, -64, 32], [0, 0, 0]]
    torch.testing.assert_close(found["embedding.scale"], torch.tensor([1 / 127, 1e-5 / 127]))
    assert torch.equal(pack_embedding(weight, "fp16")["embedding.weight"], weight.half())


@pytest.mark.parametrize("embedding", ["fp16", "int8"])
def test_rounding_an_embedding_leaves_it_near_and_again_changes_no_code(quantized, embedding):
    before = quantized.embedding.weight.detach().clone()
    round_embedding(quantized, embedding)
    after = quantized.embedding.weight.detach().clone()
    assert 0 < (after - before).abs().max() <= before.abs().max() / 254 * 1.001
    codes = pack_embedding(after, embedding)["embedding.weight"]
    assert torch.equal(codes, pack_embedding(before, embedding)["embedding.weight"])


def test_a_file_holds_a_byte_for_five_weights(packed):
    linear = [name for name in packed if name.endswith(".trits")]
    assert len(linear) == 4 and all(packed[name].shape == (103,) for name in linear)  # 16 * 32 / 5
    assert plain_bytes(TinyDecoder()) == 4 * (VOCAB * 16 + 4 * 512 + 3 * 16)
    assert packed["embedding.weight"].dtype is torch.int8 and packed["norm.weight"].dtype is torch.float32


def change(name, value):
    return lambda tensors: tensors | {name: value}


UP = "layers.0.up"


@pytest.mark.parametrize(
    ("altered", "said"),
    [
        (lambda t: {k: v for k, v in t.items() if k != f"{UP}.trits"}, f"{UP}.trits is missing"),
        (lambda t: {k: v for k, v in t.items() if k != "norm.weight"}, "norm.weight is missing"),
        (lambda t: {k: v for k, v in t.items() if k != "embedding.weight"}, "embedding.weight is missing"),
        (lambda t: t | {f"{UP}.trits": t[f"{UP}.trits"][:-1]}, f"{UP}: torch.uint8 \\[102\\]"),
        (change(f"{UP}.trits", torch.full((103,), 255, dtype=torch.uint8)), "a byte of 255"),
        (change(f"{UP}.scale", torch.tensor(float("nan"))), f"{UP}.scale is no finite float32 number"),
        (change(f"{UP}.scale", torch.ones(2)), f"{UP}.scale is no finite"),
        (change("embedding.scale", torch.ones(2)), "embedding.scale has no value for each row"),
        (change("embedding.weight", torch.zeros(VOCAB, 3, dtype=torch.int8)), r"embedding.weight is \[12, 3\]"),
        (change("layers.7.up.trits", torch.zeros(1)), "layers.7.up.trits belongs to none of its layers"),
    ],
)
def test_what_is_no_packed_network_is_refused_in_a_line(packed, altered, said):
    with pytest.raises(CheckpointError, match=said) as caught:
        unpack_network(TinyDecoder(), altered(packed))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [lambda data: data[:-7], lambda data: data[:-1] + bytes([data[-1] ^ 1])])
def test_a_file_cut_short_or_altered_is_refused(packed, tmp_path, damage):
    path = write_bundle(tmp_path / "model", Checkpoint(tensors=packed))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(EsperError, match=r"cut short|altered"):
        read_bundle(path)


def test_a_packed_network_does_not_train(packed):
    back = unpack_network(TinyDecoder(), packed)
    assert not back.training and not any(parameter.requires_grad for parameter in back.parameters())


def test_a_layer_computes_by_the_scale_that_it_holds(quantized, packed):
    back = unpack_network(TinyDecoder(), packed)
    assert torch.equal(back.layers[0].up.scale, quantized.layers[0].up.weight.detach().abs().mean())
    ones = torch.ones(1, 16)
    other = copy.deepcopy(back)
    other.load_state_dict({**back.state_dict(), f"{UP}.scale": 2 * packed[f"{UP}.scale"]})
    assert torch.equal(other.layers[0].up(ones), 2 * back.layers[0].up(ones))

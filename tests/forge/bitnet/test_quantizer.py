"""The quantiser against values computed by hand (Ma et al. 2024, arXiv 2402.17764)."""

import copy

import pytest
import torch
from torch import nn

from esper.errors import ForgeError
from esper.forge.bitnet.quantizer import (
    QuantizedLinear,
    quantize_layers,
    quantized_layers,
    set_strength,
    ternarize,
)
from tests.forge.bitnet.networks import TinyDecoder, tokens


def layer(strength: float = 1.0) -> QuantizedLinear:
    linear = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[0.6, -0.1, 0.2], [-0.9, 0.5, 0.1]]))
    quantized = QuantizedLinear.around(linear)
    quantized.strength = strength
    return quantized


# mean|W| = 2.4 / 6 = 0.4; W / 0.4 = [[1.5, -.25, .5], [-2.25, 1.25, .25]]; halves go to even
TRITS, SCALE = [[1.0, 0.0, 0.0], [-1.0, 1.0, 0.0]], 0.4
# max|x| = 2: x * 127 / 2 = [127, -63.5, 31.75]
X, Q, X_SCALE = [2.0, -1.0, 0.5], [127.0, -64.0, 32.0], 2 / 127


def test_weights_become_trits_and_their_mean_magnitude():
    trits, scale = ternarize(layer().weight.detach())
    assert trits.tolist() == TRITS
    torch.testing.assert_close(scale, torch.tensor(SCALE))
    assert ternarize(torch.zeros(2, 2))[0].tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_a_layer_multiplies_what_is_quantised():
    expected = torch.tensor([127.0, -127.0 - 64.0]) * X_SCALE * SCALE
    torch.testing.assert_close(layer()(torch.tensor([X])), expected[None])


def test_at_no_strength_it_is_the_plain_layer_and_between_it_is_between():
    x = torch.tensor([X])
    master = layer().weight.detach()
    torch.testing.assert_close(layer(0.0)(x), x @ master.T)
    mixed_x = (x + torch.tensor([Q]) * X_SCALE) / 2
    mixed_weight = (master + torch.tensor(TRITS) * SCALE) / 2
    torch.testing.assert_close(layer(0.5)(x), mixed_x @ mixed_weight.T)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_gradients_pass_as_if_nothing_had_been_rounded(strength):
    quantized, x = layer(strength), torch.tensor([X], requires_grad=True)
    slope = torch.tensor([[1.0, -2.0]])
    quantized(x).backward(slope)
    used_x = torch.lerp(torch.tensor([X]), torch.tensor([Q]) * X_SCALE, strength)
    used_weight = torch.lerp(quantized.weight.detach(), torch.tensor(TRITS) * SCALE, strength)
    torch.testing.assert_close(x.grad, slope @ used_weight)
    torch.testing.assert_close(quantized.weight.grad, slope.T @ used_x)


def test_each_token_is_quantised_by_itself():
    quantized = layer()
    x = torch.tensor([[X, [1e6, 0.0, 0.0]]])
    assert torch.equal(quantized(x)[:, :1], quantized(x[:, :1]))


def test_quantising_replaces_the_linear_layers_and_nothing_else():
    network = TinyDecoder()
    parameters, plain = dict(network.named_parameters()), copy.deepcopy(network)
    quantize_layers(network)
    assert [name for name, _ in quantized_layers(network)] == [
        f"layers.{i}.{part}" for i in range(2) for part in ("up", "down")
    ]
    found = dict(network.named_parameters())
    assert found.keys() == parameters.keys() and all(found[name] is parameters[name] for name in found)
    assert not torch.equal(network(tokens()), plain(tokens()))
    set_strength(network, 0.0)
    torch.testing.assert_close(network(tokens()), plain(tokens()))


def test_what_cannot_be_quantised_is_refused():
    with pytest.raises(ForgeError, match="no linear layers inside `layers`"):
        quantize_layers(nn.Sequential(nn.Linear(2, 2)))


def test_a_bias_stays_as_it_is():
    plain, x = nn.Linear(3, 2), torch.tensor([X])
    quantized = QuantizedLinear.around(plain)
    assert quantized.bias is plain.bias
    for strength in (0.0, 0.5, 1.0):
        quantized.strength, unbiased = strength, QuantizedLinear.around(nn.Linear(3, 2, bias=False))
        unbiased.weight, unbiased.strength = plain.weight, strength
        torch.testing.assert_close(quantized(x), unbiased(x) + plain.bias)


def test_a_quantised_network_is_exactly_causal():
    network, before = quantize_layers(TinyDecoder()), tokens()
    after = before.clone()
    after[:, 5:] = (after[:, 5:] + 1) % 12
    assert torch.equal(network(after)[:, :5], network(before)[:, :5])

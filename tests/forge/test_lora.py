"""A change that is none at scale 0, is what it is once folded, and leaves the network alone until then."""

import copy

import pytest
import torch
from torch import nn

from esper.errors import ForgeError
from esper.forge.bitnet.quantizer import quantize_layers, ternarize
from esper.forge.lora import LoRA
from tests.forge.models import network

TOKENS = torch.arange(24).view(2, 12)


def changed(base: nn.Module) -> LoRA:
    lora = LoRA(base, 4, 8.0, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for up in lora.up.values():
            up.copy_(0.1 * torch.randn(up.shape, generator=generator))
    return lora


@pytest.fixture(params=["plain", "ternary"])
def base(request):
    return network() if request.param == "plain" else quantize_layers(network())


def test_at_scale_0_it_is_the_network_bit_for_bit(base):
    lora = changed(base)
    assert not torch.equal(lora(TOKENS), base(TOKENS))
    lora.scale = 0.0
    assert torch.equal(lora(TOKENS), base(TOKENS))


def test_before_it_is_trained_it_is_the_network_bit_for_bit(base):
    assert torch.equal(LoRA(base, 4, 8.0, torch.Generator())(TOKENS), base(TOKENS))


@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_folded_it_computes_what_it_did_unfolded(base, scale):
    lora = changed(base)
    lora.scale = scale
    wanted = lora(TOKENS)
    folded = lora.fold()
    assert folded is base
    assert torch.equal(folded(TOKENS), wanted)


def test_folded_into_ternary_masters_the_weights_in_use_are_other_trits():
    base = quantize_layers(network())
    before = {name: ternarize(weight)[0] for name, weight in base.named_parameters() if "proj" in name}
    changed(base).fold()
    assert any(not torch.equal(ternarize(base.get_parameter(name))[0], trits) for name, trits in before.items())


def test_only_the_change_is_trained(base):
    untouched = copy.deepcopy(base.state_dict())
    lora = LoRA(base, 4, 8.0, torch.Generator().manual_seed(1))
    optimizer = torch.optim.SGD(lora.parameters(), 1.0)
    for _ in range(2):  # in the first step, only `up` has a gradient
        optimizer.zero_grad()
        lora(TOKENS).square().mean().backward()
        optimizer.step()
    assert all(parameter.grad is None for parameter in base.parameters())
    assert all(torch.equal(value, untouched[name]) for name, value in base.state_dict().items())
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in lora.parameters())


def test_it_changes_every_matrix_of_the_layers_by_its_rank_at_most(base):
    lora = changed(base)
    names = [name for name, weight in base.named_parameters() if weight.dim() == 2 and name.startswith("layers.")]
    assert sorted(lora.weights()) == sorted(names)
    for name, weight in lora.weights().items():
        difference = (weight - base.get_parameter(name)).double()
        assert 0 < torch.linalg.matrix_rank(difference, rtol=1e-4) <= 4


def test_a_network_without_layers_is_refused():
    with pytest.raises(ForgeError, match="no linear layers"):
        LoRA(nn.Sequential(nn.Linear(2, 2)), 1, 1.0, torch.Generator())


def test_as_many_of_the_first_matrices_are_changed_as_the_parameters_allow():
    base = network()
    whole = LoRA(base, 1, 1.0, torch.Generator().manual_seed(1))
    sizes = {name: sum(weight.shape) for name, weight in whole.weights().items()}
    first, second, *_ = sizes
    fewer = LoRA(base, 1, 1.0, torch.Generator().manual_seed(1), sizes[first] + sizes[second])
    assert list(fewer.weights()) == [first, second]
    assert sum(p.numel() for p in fewer.parameters()) == sizes[first] + sizes[second]

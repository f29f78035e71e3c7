"""Scales of singular values: one is the network itself, and nothing but they train."""

import copy

import pytest
import torch

from esper.forge.bitnet.quantizer import layer_matrices
from esper.forge.bundles import load_language_model
from esper.forge.experts.layers import dense_copy
from esper.forge.experts.singular_values import SingularValues, mixed, put_in
from esper.tasks.task import named_generator
from tests.forge.experts.conftest import LENGTH


@pytest.fixture(params=["plain", "ternary"])
def network(request):
    return load_language_model(request.getfixturevalue(request.param)).host


def tokens(rows: int = 3, length: int = LENGTH):
    return torch.randint(256, (rows, length), generator=named_generator(0, "tokens"))


def test_scales_of_one_are_the_network_itself(network):
    scaled = SingularValues(dense_copy(network))
    assert (scaled(tokens()) - network(tokens())).abs().max() <= 1e-6


def test_a_matrix_is_u_diag_of_z_s_v_transposed(network):
    scaled = SingularValues(dense_copy(network))
    values = 0.3 * torch.randn(len(scaled.values), generator=named_generator(0, "values"))
    start = 0
    for (name, matrix), size in zip(layer_matrices(scaled.network).items(), scaled.sizes, strict=True):
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        z = 1 + values[start : start + size]
        assert torch.allclose(scaled.weights(values)[name], u @ torch.diag(z * s) @ vh, atol=1e-4)
        start += size
    assert start == len(values)


def test_the_scales_train_and_nothing_else_does(network):
    scaled = SingularValues(dense_copy(network))
    before = copy.deepcopy(scaled.network.state_dict())
    assert [name for name, _ in scaled.named_parameters()] == ["values"]
    optimizer = torch.optim.AdamW(scaled.parameters(), 0.02, weight_decay=0.0)
    losses = []
    x = tokens(8)
    for _ in range(12):
        loss = torch.nn.functional.cross_entropy(scaled(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] and (scaled.values != 0).float().mean() > 0.9
    assert all(torch.equal(value, before[name]) for name, value in scaled.network.state_dict().items())


def test_what_is_put_in_computes_what_was_trained(network):
    scaled = SingularValues(dense_copy(network))
    values = 0.2 * torch.randn(len(scaled.values), generator=named_generator(0, "values"))
    put = put_in(copy.deepcopy(scaled.network), scaled.weights(values))
    assert torch.equal(put(tokens()), scaled.by(values, tokens()))


def test_a_mixture_weighs_its_experts():
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    assert torch.equal(mixed([one, other], torch.tensor([0.5, 1.5])), torch.tensor([0.5, 3.0]))

"""The proxy predicts what compressing really costs."""

import copy

import pytest
import torch

from esper.forge.compression.calibration import calibrate
from esper.tasks.text.windows import every_window
from tests.forge.compression.conftest import LENGTH, nats


@pytest.fixture(scope="module")
def measured(network, text):
    x, y = every_window(text["val"], LENGTH)
    return calibrate(network, x[:128], y[:128])


def test_every_matrix_has_statistics(network, measured):
    matrices = {name: p for name, p in network.named_parameters() if p.ndim == 2}
    assert measured.keys() == matrices.keys()
    for name, found in measured.items():
        assert found.inputs.shape == (matrices[name].shape[1],) * 2 and found.rows.shape == matrices[name].shape[:1]
        assert torch.allclose(found.inputs, found.inputs.T, rtol=1e-4) and (found.rows >= 0).all()
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("name", ["embedding.weight", "mix.weight", "layers.1.down.weight"])
def test_predicts_the_loss_of_a_small_error(network, text, measured, name):
    before = nats(network, text["val"])
    weight = network.get_parameter(name)
    error = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * 0.15 * weight.detach().std()
    both = []
    for sign in (1.0, -1.0):  # what is not curvature cancels: the model is at no minimum of this text's loss
        changed = copy.deepcopy(network)
        with torch.no_grad():
            changed.get_parameter(name).add_(sign * error)
        both.append(nats(changed, text["val"]))
    cost = sum(both) / 2 - before
    assert 0.3 * cost < measured[name].loss_increase(error) < 3 * cost


def test_linear_layers_know_what_they_multiply(measured, network, text):
    x, _ = every_window(text["val"], LENGTH)
    seen = []
    hook = network.mix.register_forward_hook(lambda module, given, out: seen.append(given[0].flatten(0, 1)))
    with torch.no_grad():
        network(x[:128])
    hook.remove()
    expected = seen[0].T @ seen[0] / len(seen[0])
    assert torch.allclose(measured["mix.weight"].inputs, expected, rtol=1e-3, atol=1e-4)

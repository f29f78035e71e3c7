import pytest
import torch
from torch import nn

from esper.kasmina.isolation import (
    GradientIsolationMonitor,
    guard_gradient,
    keep_finite,
)


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 3, 4, 4, generator=generator).requires_grad_() for _ in range(2))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_update_with_one_bad_element_is_dropped_whole(pair, value):
    update = pair[0].detach().clone()
    update[0, 0, 0, 0] = value
    update.requires_grad_()
    kept, is_finite = keep_finite(update)
    assert torch.equal(kept, torch.zeros_like(kept))
    assert not is_finite
    kept.sum().backward()
    assert torch.equal(update.grad, torch.zeros_like(update))


def test_a_finite_update_is_kept_as_it_is(pair):
    kept, is_finite = keep_finite(pair[0])
    assert torch.equal(kept, pair[0])
    assert is_finite


def test_a_guard_passes_finite_gradients_and_drops_the_others_whole(pair):
    host, cotangent = pair[0], pair[1].detach().clone()
    (gradient,) = torch.autograd.grad(guard_gradient(host), host, cotangent)
    assert torch.equal(gradient, cotangent)
    cotangent[1, 2, 3, 3] = float("nan")
    (gradient,) = torch.autograd.grad(guard_gradient(host), host, cotangent)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_the_monitor_counts_a_seed_inside_the_host_as_the_seed():
    seed = nn.Linear(3, 3)
    host = nn.Sequential(nn.Linear(3, 3), seed)
    monitor = GradientIsolationMonitor()
    monitor.register(host, seed)
    seed(host[0](torch.ones(2, 3)).detach()).sum().backward()
    assert monitor.check_isolation()[0]


def test_the_monitor_takes_a_host_gradient_that_is_not_finite_for_a_leak():
    host, seed = nn.Linear(1, 1), nn.Linear(1, 1)
    monitor = GradientIsolationMonitor(threshold=1e-3)
    monitor.register(host, seed)
    host.weight.grad = torch.full((1, 1), float("nan"))
    assert not monitor.check_isolation()[0]

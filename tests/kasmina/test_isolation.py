import pytest
import torch
from torch import nn

from esper.kasmina.isolation import (
    GradientIsolationMonitor,
    blend_with_isolation,
    guard_gradient,
    keep_finite,
    ste_forward,
)


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 3, 4, 4, generator=generator).requires_grad_() for _ in range(2))


def test_straight_through_is_the_host_in_value_and_both_in_gradient(pair):
    host, seed = pair
    output = ste_forward(host, seed)
    assert torch.equal(output, host)
    output.sum().backward()
    assert torch.equal(host.grad, torch.ones_like(host))
    assert torch.equal(seed.grad, torch.ones_like(seed))


def test_a_blend_mixes_values_and_gradients_by_alpha(pair):
    host, seed = pair
    output = blend_with_isolation(host, seed, 0.25, detach_host=False)
    torch.testing.assert_close(output, 0.75 * host + 0.25 * seed)
    output.sum().backward()
    assert torch.allclose(host.grad, torch.tensor(0.75))
    assert torch.allclose(seed.grad, torch.tensor(0.25))


def test_a_blend_with_the_host_detached_sends_it_nothing(pair):
    host, seed = pair
    output = blend_with_isolation(host, seed, 0.25, detach_host=True)
    torch.testing.assert_close(output, 0.75 * host + 0.25 * seed)
    output.sum().backward()
    assert host.grad is None
    assert torch.allclose(seed.grad, torch.tensor(0.25))


def test_a_blend_takes_an_alpha_a_sample(pair):
    host, seed = pair
    output = blend_with_isolation(host, seed, torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1))
    assert torch.equal(output[0], host[0])
    torch.testing.assert_close(output[1], seed[1])


def test_both_compile_whole(pair):
    host, seed = pair
    for detach in (False, True):
        blend = torch.compile(blend_with_isolation, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(
            blend(host, seed, 0.3, detach_host=detach), blend_with_isolation(host, seed, 0.3, detach_host=detach)
        )
    assert torch.equal(torch.compile(ste_forward, fullgraph=True, backend="aot_eager")(host, seed), host)


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


def test_the_monitor_tells_a_leak_from_isolation():
    host, seed = nn.Linear(3, 3), nn.Linear(3, 3)
    monitor = GradientIsolationMonitor()
    monitor.register(host, seed)
    x = torch.ones(2, 3)

    seed(host(x).detach()).sum().backward()
    is_isolated, figures = monitor.check_isolation()
    assert is_isolated is True
    assert figures["host_grad_norm"] == 0.0
    expected = torch.cat([p.grad.flatten() for p in seed.parameters()]).norm().item()
    assert figures["seed_grad_norm"] == pytest.approx(expected)
    assert (figures["isolated"], figures["violations"]) == (True, 0)

    for count in (1, 2):
        seed(host(x)).sum().backward()
        is_isolated, figures = monitor.check_isolation()
        assert is_isolated is False
        assert figures["host_grad_norm"] > 0.0
        assert figures["violations"] == count


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

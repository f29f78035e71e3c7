"""Contracts, section kasmina: isolation."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina.isolation import GradientIsolationMonitor, blend_with_isolation, ste_forward


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 4, 3, 3, generator=generator, requires_grad=True) for _ in range(2))


def test_straight_through_has_the_hosts_values_and_both_gradients(pair: tuple[Tensor, Tensor]) -> None:
    host, seed = pair
    output = ste_forward(host, seed)
    assert torch.equal(output, host) and torch.equal(ste_forward(host_features=host, seed_features=seed), host)
    weight = torch.randn_like(output)
    (output * weight).sum().backward()
    assert torch.equal(host.grad, weight) and torch.equal(seed.grad, weight)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0, torch.tensor(0.25), torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)])
def test_a_blend_is_between_host_and_seed(pair: tuple[Tensor, Tensor], alpha: float | Tensor) -> None:
    host, seed = pair
    expected = (1 - alpha) * host + alpha * seed
    for detach_host in (False, True):
        torch.testing.assert_close(blend_with_isolation(host, seed, alpha, detach_host=detach_host), expected)


def test_a_blend_may_cut_off_the_host(pair: tuple[Tensor, Tensor]) -> None:
    host, seed = pair
    blend_with_isolation(host, seed, 0.25, detach_host=True).sum().backward()
    assert host.grad is None or not host.grad.any()
    torch.testing.assert_close(seed.grad, torch.full_like(seed, 0.25))
    seed.grad = None
    blend_with_isolation(host, seed, 0.25, detach_host=False).sum().backward()
    torch.testing.assert_close(host.grad, torch.full_like(host, 0.75))
    torch.testing.assert_close(seed.grad, torch.full_like(seed, 0.25))


def test_a_learned_alpha_gets_its_gradient(pair: tuple[Tensor, Tensor]) -> None:
    alpha = torch.tensor(0.5, requires_grad=True)
    blend_with_isolation(*pair, alpha, detach_host=True).sum().backward()
    torch.testing.assert_close(alpha.grad, (pair[1] - pair[0]).sum().detach())


def test_both_compile_into_one_graph(compiled: Callable, pair: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(compiled(ste_forward)(*pair), ste_forward(*pair))
    blend = compiled(blend_with_isolation)
    for detach_host in (False, True):
        expected = blend_with_isolation(*pair, 0.3, detach_host=detach_host)
        torch.testing.assert_close(blend(*pair, 0.3, detach_host=detach_host), expected)


# ---- the monitor


@pytest.fixture
def watched() -> tuple[nn.Linear, nn.Linear, GradientIsolationMonitor]:
    host, seed = nn.Linear(3, 3), nn.Linear(3, 3)
    monitor = GradientIsolationMonitor()
    monitor.register(host, seed)
    return host, seed, monitor


def norm(module: nn.Module) -> float:
    return torch.cat([parameter.grad.flatten() for parameter in module.parameters()]).norm().item()


def test_nothing_happened_yet_is_isolated(watched: tuple[nn.Linear, nn.Linear, GradientIsolationMonitor]) -> None:
    assert watched[2].check_isolation() == (
        True,
        {"host_grad_norm": 0.0, "seed_grad_norm": 0.0, "isolated": True, "violations": 0},
    )


def test_gradient_in_the_seed_alone_is_isolated(watched: tuple[nn.Linear, nn.Linear, GradientIsolationMonitor]) -> None:
    host, seed, monitor = watched
    seed(host(torch.ones(2, 3)).detach()).sum().backward()
    is_isolated, figures = monitor.check_isolation()
    assert is_isolated is True and figures["isolated"] is True and figures["violations"] == 0
    assert figures["host_grad_norm"] == 0.0 and figures["seed_grad_norm"] == pytest.approx(norm(seed))


def test_gradient_in_the_host_is_a_violation_each_time(
    watched: tuple[nn.Linear, nn.Linear, GradientIsolationMonitor],
) -> None:
    host, seed, monitor = watched
    seed(host(torch.ones(2, 3))).sum().backward()
    for count in (1, 2):
        is_isolated, figures = monitor.check_isolation()
        assert is_isolated is False and figures["isolated"] is False and figures["violations"] == count
    assert figures["host_grad_norm"] == pytest.approx(norm(host)) and type(figures["host_grad_norm"]) is float
    for parameter in host.parameters():
        parameter.grad *= 1e-9
    assert norm(host) > 0 and monitor.check_isolation()[0] is True  # below the threshold


def test_a_group_of_any_size_waits_for_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    host, seed = (nn.Sequential(*(nn.Linear(2, 2) for _ in range(20))) for _ in range(2))
    monitor = GradientIsolationMonitor()
    monitor.register(host, seed)
    seed(host(torch.ones(1, 2))).sum().backward()
    waits = 0
    for name in ("item", "tolist", "__float__", "__bool__", "cpu", "numpy"):
        original = getattr(Tensor, name)

        def counted(self: Tensor, *args: object, original: Callable = original) -> object:
            nonlocal waits
            waits += 1
            return original(self, *args)

        monkeypatch.setattr(Tensor, name, counted)
    monitor.check_isolation()
    assert waits <= 2

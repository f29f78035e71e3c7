import math

import pytest
import torch
from torch import Tensor, nn

from esper.engine.state.gradients import row_statistics
from esper.simic.gradient_collector import SeedGradientCollector, collect_seed_gradients


def with_gradient(*values: float, dtype: torch.dtype = torch.float32) -> Tensor:
    parameter = torch.zeros(len(values), dtype=dtype, requires_grad=True)
    parameter.grad = torch.tensor(values, dtype=dtype)
    return parameter


@pytest.mark.parametrize(
    ("gradients", "health", "vanishing", "exploding"),
    [
        ([0.0, 1.0, 1.0, 1.0], 1 - 0.5 / 4, True, False),
        ([200.0, 1.0], 1 - 0.8 / 2, False, True),
        ([0.0, 200.0], 1 - 0.5 / 2 - 0.8 / 2, True, True),
        ([200.0, 200.0], 1 - 0.8, False, True),
        ([0.0], 0.5, True, False),
        ([1e-7, 100.0], 1.0, False, False),  # the thresholds themselves are healthy
        ([math.nan, 1.0], 1 - 0.8 / 2, False, True),
        ([math.inf, 1.0], 1 - 0.8 / 2, False, True),
    ],
)
def test_health_and_flags(gradients, health, vanishing, exploding) -> None:
    parameters = [with_gradient(value, dtype=torch.float64) for value in gradients]
    found = SeedGradientCollector().collect(parameters)
    assert found["gradient_health"] == pytest.approx(health)
    assert found["has_vanishing"] is vanishing
    assert found["has_exploding"] is exploding


def test_a_norm_whose_square_overflows_float32_is_right() -> None:
    found = collect_seed_gradients([with_gradient(3e30, 4e30)])
    assert found["gradient_norm"] == pytest.approx(5e30)


def test_any_shape_layout_and_type() -> None:
    shapes = [(), (0,), (3,), (2, 3, 4, 5)]
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.zeros(shape, requires_grad=True) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    parameters[3].grad = parameters[3].grad.to(memory_format=torch.channels_last)
    low = torch.zeros(4, dtype=torch.bfloat16, requires_grad=True)
    low.grad = torch.ones(4, dtype=torch.bfloat16)
    parameters.append(low)
    total = math.sqrt(sum(float(p.grad.double().square().sum()) for p in parameters))
    assert collect_seed_gradients(parameters)["gradient_norm"] == pytest.approx(total / 5)


def test_a_real_backward_pass_is_left_as_it_was() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    network(torch.ones(3, 4)).square().sum().backward()
    before = [parameter.grad.clone() for parameter in network.parameters()]
    found = collect_seed_gradients(network.parameters())
    norms = [float(gradient.norm()) for gradient in before]
    assert found["gradient_norm"] == pytest.approx(math.hypot(*norms) / 4, rel=1e-5)
    assert all(torch.equal(p.grad, kept) for p, kept in zip(network.parameters(), before, strict=True))


def test_stacks_and_single_seeds_follow_one_rule() -> None:
    generator = torch.Generator().manual_seed(0)
    stacks = [torch.randn(5, 4, 3, generator=generator), torch.randn(5, 7, generator=generator)]
    stacks[0][1], stacks[1][2], stacks[0][3] = 0.0, 1e4, math.nan
    rows = row_statistics(stacks)
    for member in range(5):
        parameters = [torch.zeros_like(stack[member]).requires_grad_() for stack in stacks]
        for parameter, stack in zip(parameters, stacks, strict=True):
            parameter.grad = stack[member]
        found = collect_seed_gradients(parameters)
        assert found["gradient_norm"] == pytest.approx(float(rows.mean_norm[member]), rel=1e-5, nan_ok=True)
        assert found["gradient_health"] == pytest.approx(float(rows.health[member]))
        assert found["has_vanishing"] == bool(rows.has_vanishing[member])
        assert found["has_exploding"] == bool(rows.has_exploding[member])

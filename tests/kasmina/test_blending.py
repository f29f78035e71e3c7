import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from esper.errors import ConfigError
from esper.kasmina.blending import BLEND_ALGORITHMS, AlphaSchedule, BlendGate, bound_residual, check_blend_algorithm


@given(st.sampled_from(BLEND_ALGORITHMS), st.integers(1, 500))
def test_a_ramp_runs_from_0_to_1_without_turning_back(algorithm, steps):
    schedule = AlphaSchedule(algorithm, steps)
    alphas = [schedule.alpha_at(step) for step in range(steps + 3)]
    assert alphas[0] == pytest.approx(0.0, abs=1e-12)
    assert alphas[steps:] == [1.0, 1.0, 1.0]
    assert alphas == sorted(alphas)
    assert all(0.0 <= alpha <= 1.0 for alpha in alphas)


def test_linear_is_linear_and_sigmoid_is_slow_at_both_ends():
    linear, sigmoid = (AlphaSchedule(algorithm, 8) for algorithm in ("linear", "sigmoid"))
    assert [linear.alpha_at(step) for step in (2, 4, 6)] == [0.25, 0.5, 0.75]
    assert sigmoid.alpha_at(2) < 0.1
    assert sigmoid.alpha_at(4) == pytest.approx(0.5)
    assert sigmoid.alpha_at(6) == pytest.approx(1.0 - sigmoid.alpha_at(2))


def test_a_ramp_may_run_down():
    assert [AlphaSchedule("linear", 4, 0.8, 0.0).alpha_at(step) for step in range(5)] == pytest.approx(
        [0.8, 0.6, 0.4, 0.2, 0.0]
    )


def test_an_unknown_blend_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"'cubic' is unknown.*linear, sigmoid, gated"):
        check_blend_algorithm("cubic")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((5, 4, 3, 3), (5, 1, 1, 1)), ((5, 7, 4), (5, 7, 1)), ((5, 4, 7), (5, 1, 1)), ((5, 4), (5, 1))],
)
def test_a_new_gate_gives_every_sample_or_token_the_ramps_alpha(shape, expected):
    alpha = BlendGate(4, by_token=shape == (5, 7, 4))(torch.ones(shape), 0.3)
    assert alpha.shape == expected
    assert torch.allclose(alpha, torch.tensor(0.3))


@given(st.floats(0, 1), st.floats(-50, 50))
def test_a_gate_keeps_alpha_within_0_and_1_and_leaves_the_ends_alone(ramp, bias):
    gate = BlendGate(2)
    nn.init.constant_(gate.linear.bias, bias)
    features = torch.zeros(1, 2, 2, 2)
    assert 0.0 <= gate(features, ramp).item() <= 1.0
    assert gate(features, 0.0).item() == 0.0
    assert gate(features, 1.0).item() == 1.0


def test_a_gate_lets_samples_run_ahead_or_behind():
    gate = BlendGate(1)
    nn.init.constant_(gate.linear.weight, 1.0)
    ahead, behind = gate(torch.tensor([9.0, -9.0]).reshape(2, 1, 1, 1), 0.5).flatten().tolist()
    assert ahead == pytest.approx(0.75, abs=1e-3)
    assert behind == pytest.approx(0.25, abs=1e-3)


@given(st.floats(0.01, 1e6), st.floats(0.1, 3.0))
def test_a_residual_stays_below_its_bound_sample_by_sample(scale, max_ratio):
    x, delta = torch.ones(2, 3, 2, 2), torch.ones(2, 3, 2, 2)
    x[1] *= 10.0
    change = bound_residual(x, scale * delta, max_ratio) - x
    assert (change.flatten(1).norm(dim=1) <= max_ratio * x.flatten(1).norm(dim=1) * 1.0001).all()


@given(st.floats(0.01, 1e6), st.floats(0.1, 3.0))
def test_in_a_sequence_a_residual_stays_below_its_bound_token_by_token(scale, max_ratio):
    x, delta = torch.ones(2, 5, 3), torch.ones(2, 5, 3)
    x[:, 1] *= 10.0
    whole = bound_residual(x, scale * delta, max_ratio, by_token=True)
    assert ((whole - x).norm(dim=-1) <= max_ratio * x.norm(dim=-1) * 1.0001).all()
    assert torch.equal(bound_residual(x[:, :2], scale * delta[:, :2], max_ratio, by_token=True), whole[:, :2])


def test_a_small_residual_is_added_as_it_is():
    x, delta = torch.ones(1, 4, requires_grad=True), torch.full((1, 4), 1e-4)
    assert torch.allclose(bound_residual(x, delta) - x, delta, atol=1e-7)
    zero = torch.zeros(1, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(bound_residual(x, zero).sum(), zero)
    assert torch.equal(gradient, torch.ones(1, 4))


def test_a_residual_of_nothing_is_finite():
    zero = torch.zeros(1, 4, requires_grad=True)
    output = bound_residual(zero, torch.ones(1, 4))
    output.sum().backward()
    assert output.isfinite().all()
    assert zero.grad.isfinite().all()


def test_the_bounds_gradient_is_exact():
    generator = torch.Generator().manual_seed(0)
    x, delta = (torch.randn(2, 3, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(bound_residual, (x, delta))

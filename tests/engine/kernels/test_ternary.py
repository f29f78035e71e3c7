"""Ternary weights times activations of 8 bits: the compiled kernel against torch, bit for bit."""

import ctypes

import pytest
import torch

from esper.engine.kernels import native, ternary
from esper.engine.kernels.ternary import TernaryWeight, quantize_activations, ternary_product
from esper.errors import EngineError
from esper.tasks.task import named_generator

SCALE = 0.03125


@pytest.fixture(params=["native", "torch"])
def kernels(request, monkeypatch):
    """Both ways to compute."""
    if request.param == "torch":
        monkeypatch.setattr(ternary, "load", lambda: (None, "no compiler"))
    elif ternary.load()[0] is None:
        pytest.skip(ternary.load()[1])
    return request.param


def trits(outputs: int, inputs: int) -> torch.Tensor:
    return torch.randint(-1, 2, (outputs, inputs), generator=named_generator(inputs, f"trits/{outputs}"))


def activations(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=named_generator(shape[-1], "activations"))


def test_activations_are_quantised_as_by_hand():
    q, scale = quantize_activations(torch.tensor([[0.5, -1.0, 0.25, 0.0], [127.0, 1.5, 2.5, -0.4], [0.0] * 4]))
    assert q.tolist() == [[64.0, -127.0, 32.0, 0.0], [127.0, 2.0, 2.0, 0.0], [0.0] * 4]  # halves go to even
    torch.testing.assert_close(scale, torch.tensor([[1 / 127], [1.0], [1e-5 / 127]]))


def test_a_product_is_the_one_by_hand(kernels):
    weight = TernaryWeight(torch.tensor([[1, 0, -1], [-1, -1, 1]]), 0.5)
    x = torch.tensor([[127.0, 3.0, -2.0]])
    torch.testing.assert_close(weight.linear(x), torch.tensor([[0.5 * 129, 0.5 * -132]]))


@pytest.mark.parametrize("tokens", [1, 3, 4, 5, 64, 131])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (16, 16), (17, 15), (64, 172), (128, 128), (344, 128)])
def test_the_kernel_is_torch_bit_for_bit(kernels, tokens, outputs, inputs):
    codes, x = trits(outputs, inputs), activations(tokens, inputs)
    plain = ternary_product(*quantize_activations(x), codes.float(), SCALE)
    assert torch.equal(TernaryWeight(codes, SCALE).linear(x), plain)


def test_threads_change_no_bit():
    weight, x = TernaryWeight(trits(200, 300), SCALE), activations(90, 300)
    alone = weight.linear(x)
    torch.set_num_threads(3)
    assert torch.equal(weight.linear(x), alone)


def test_extremes_stay_exact(kernels):
    inputs = 4096
    weight = TernaryWeight(torch.ones(17, inputs, dtype=torch.int8), 1.0)
    x = torch.full((5, inputs), -3.0)
    assert torch.equal(weight.linear(x), torch.full((5, 17), -127.0 * inputs) * (torch.tensor(3.0) * (1 / 127)))
    assert torch.equal(weight.linear(torch.full((2, inputs), 1e-30)), torch.zeros(2, 17))


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_breaks_its_own_token_alone(kernels, broken):
    weight, x = TernaryWeight(trits(20, 40), SCALE), activations(6, 40)
    sound = weight.linear(x)
    x[2, 7] = broken
    found = weight.linear(x)
    assert found[2].isnan().all()
    x[2] = 0
    others = [0, 1, 3, 4, 5]
    assert torch.equal(found[others], sound[others])


def test_any_layout_of_the_input_will_do(kernels):
    weight, x = TernaryWeight(trits(20, 40), SCALE), activations(2, 3, 40)
    expected = weight.linear(x.reshape(-1, 40)).view(2, 3, 20)
    assert torch.equal(weight.linear(x), expected)
    assert torch.equal(weight.linear(x.mT.contiguous().mT), expected)
    assert torch.equal(weight.linear(x.requires_grad_()), expected) and not weight.linear(x).requires_grad
    assert weight.linear(x[:0]).shape == (0, 3, 20)
    assert torch.equal(weight.linear(x[0, 0]), expected[0, 0])


@pytest.mark.parametrize("x", [torch.zeros(2, 39), torch.zeros(2, 40, dtype=torch.float64), torch.tensor(0.0)])
def test_another_input_is_refused(kernels, x):
    with pytest.raises(EngineError, match=r"expected float32 \[\.\.\., 40\]"):
        TernaryWeight(trits(20, 40), SCALE).linear(x)


@pytest.mark.parametrize("codes", [torch.full((2, 2), 2), torch.full((2, 2), -2), torch.zeros(4), torch.zeros(0, 4)])
def test_what_is_not_ternary_is_refused(codes):
    with pytest.raises(EngineError, match="a ternary weight is"):
        TernaryWeight(codes, SCALE)


def test_sums_that_would_round_are_refused():
    with pytest.raises(EngineError, match="exact below"):
        TernaryWeight(torch.zeros(1, 140_000, dtype=torch.int8), SCALE)


def test_a_weight_serves_where_the_library_is_gone(monkeypatch):
    weight, x = TernaryWeight(trits(33, 40), SCALE), activations(3, 40)
    expected = weight.linear(x)
    monkeypatch.setattr(ternary, "load", lambda: (None, "no compiler"))
    assert torch.equal(weight.linear(x), expected)


def test_a_library_with_other_arguments_is_refused(monkeypatch):
    if ternary.load()[0] is None:
        pytest.skip(ternary.load()[1])

    class Other(ctypes.Structure):
        _fields_ = native.struct_fields(
            integers="tokens out_features in_features threads", reals="scale", pointers="x codes out"
        )

    Other.__name__ = "Ternary"
    monkeypatch.setattr(ternary, "Ternary", Other)
    ternary.load.cache_clear()
    try:
        assert ternary.load() == (None, "the compiled ternary kernel does not match this version: its arguments differ")
    finally:
        monkeypatch.undo()
        ternary.load.cache_clear()
    assert ternary.load()[0] is not None

"""Seeds' effect on the host for many networks, against the rules for one."""

import pytest
import torch

from esper.engine.fusion import seed_ops
from esper.engine.kernels import native
from esper.errors import EngineError
from esper.kasmina import blending, isolation


def tensors(samples: int = 21):
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(4, 3, 5, 2, samples, generator=generator, dtype=torch.float64) for _ in range(3)]
    return draw[0].requires_grad_(), draw[1].requires_grad_(), draw[2]


def test_a_bounded_residual_is_the_one_of_the_plain_seed(kernels):
    x, delta, slope = tensors()
    out = seed_ops.bound_residual(x, delta, 0.7)
    plain = torch.stack(
        [blending.bound_residual(x[r].movedim(-1, 0), delta[r].movedim(-1, 0), 0.7).movedim(0, -1) for r in range(4)]
    )
    torch.testing.assert_close(out, plain, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(out, (x, delta), slope), torch.autograd.grad(plain, (x, delta), slope), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_each_row_blends_by_its_own_alpha_and_a_broken_seed_is_cut_out(kernels):
    host, seed, slope = tensors()
    with torch.no_grad():
        seed[2, 0, 0, 0, 0] = float("inf")
    alpha = torch.tensor([0.0, 0.3, 0.5, 1.0], dtype=torch.float64)
    straight_through = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    out, is_finite = seed_ops.blend(host, seed, alpha, straight_through)
    assert is_finite.tolist() == [1, 1, 0, 1]
    assert torch.equal(out[0], host[0]) and torch.equal(out[2], host[2])
    torch.testing.assert_close(out[1], isolation.blend_with_isolation(host[1], seed[1], 0.3), rtol=1e-12, atol=1e-12)
    grad_host, grad_seed = torch.autograd.grad(out, (host, seed), slope)
    assert torch.equal(grad_host[0], slope[0]) and torch.equal(grad_seed[0], slope[0])  # straight through
    torch.testing.assert_close(grad_host[1], 0.7 * slope[1])
    torch.testing.assert_close(grad_seed[1], 0.3 * slope[1])
    assert torch.equal(grad_host[2], slope[2]) and not grad_seed[2].any()


def test_alpha_per_sample_learns(kernels):
    host, seed, slope = tensors()
    alpha = torch.rand(4, 1, 1, 1, 21, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    out, _ = seed_ops.blend(host, seed, alpha, torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(out, host + alpha * (seed - host))
    (grad,) = torch.autograd.grad(out, alpha, slope)
    torch.testing.assert_close(grad, (slope * (seed - host)).sum((1, 2, 3), keepdim=True))


def test_gradient_goes_upstream_only_where_a_row_is_open_and_finite():
    x, _, slope = tensors()
    slope[3, 0, 0, 0, 0] = float("nan")
    (grad,) = torch.autograd.grad(seed_ops.isolate(x, torch.tensor([0.0, 1.0, 0.0, 1.0])), x, slope)
    assert not grad[0].any() and torch.equal(grad[1], slope[1]) and not grad[2].any() and not grad[3].any()


def test_a_blend_token_by_token_is_never_taken_for_one_by_channel():
    generator = torch.Generator().manual_seed(0)
    host, seed = (torch.randn(2, 2, 3, 6, generator=generator, dtype=torch.float64) for _ in range(2))  # B T = C
    alpha = torch.rand(2, 2, 3, 1, generator=generator, dtype=torch.float64)
    out, _ = seed_ops.blend(host, seed, alpha, torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(out, host + alpha * (seed - host))


def test_a_row_whose_sum_half_precision_cannot_hold_is_finite():
    seed = torch.full((2, 3, 40, 40, 20), 2.0, dtype=torch.float16, requires_grad=True)
    _, is_finite = seed_ops.blend(torch.zeros_like(seed), seed, torch.ones(2), torch.zeros(2))
    (grad,) = torch.autograd.grad(seed_ops.isolate(seed, torch.ones(2)), seed, torch.ones_like(seed))
    assert is_finite.tolist() == [1, 1] and grad.eq(1).all()


NAN, INF = float("nan"), float("inf")
OPERATIONS = {
    "bound": lambda x, delta, alpha: seed_ops.bound_residual(x, delta, 0.7),
    "blend": lambda x, delta, alpha: seed_ops.blend(x, delta, alpha, torch.tensor([1.0, 0.0, 0.0, 0.0]))[0],
    "blend per sample": lambda x, delta, alpha: seed_ops.blend(
        x, delta, alpha.view(4, 1, 1, 1, 1).expand(4, 1, 1, 1, x.shape[-1]), torch.zeros(4)
    )[0],
}


def given():
    x, delta, slope = tensors()
    alpha = torch.tensor([0.25, 0.3, 0.5, 1.0], dtype=torch.float64)
    return {"x": x, "delta": delta, "alpha": alpha, "slope": slope}


def result(operation, values, change=None):
    leaves = {name: value.detach().clone().requires_grad_(name != "slope") for name, value in values.items()}
    used = leaves | {name: changed(leaves[name]) for name, changed in (change or {}).items()}
    out = operation(used["x"], used["delta"], used["alpha"])
    grads = torch.autograd.grad(out, [leaves["x"], leaves["delta"], leaves["alpha"]], used["slope"], allow_unused=True)
    return {"out": out.detach()} | dict(zip(("grad x", "grad delta", "grad alpha"), grads, strict=True))


def same(ours, theirs, said):
    for field, value in theirs.items():
        torch.testing.assert_close(ours[field], value, equal_nan=True, msg=lambda m, f=field: f"{said}: {f}: {m}")


def on_both(monkeypatch, operation, values):
    if native.load()[0] is None:
        pytest.skip(native.load()[1])
    ours = result(operation, values)
    with monkeypatch.context() as patch:
        patch.setattr(native, "is_supported", lambda x: False)
        return ours, result(operation, values)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("name", OPERATIONS)
def test_what_is_not_finite_goes_where_torch_lets_it_go(name, value, monkeypatch):
    values = given()
    for where in values:
        spoiled = values[where].detach().clone()
        spoiled.flatten()[spoiled.numel() // 2] = value
        same(*on_both(monkeypatch, OPERATIONS[name], values | {where: spoiled}), where)


def strided(tensor):
    return torch.stack((tensor, torch.full_like(tensor, NAN)), -1)[..., 0]


@pytest.mark.parametrize("name", OPERATIONS)
def test_tensors_that_are_not_contiguous_mean_the_same(name, kernels):
    values = given()
    for where in values:
        same(result(OPERATIONS[name], values, change={where: strided}), result(OPERATIONS[name], values), where)


@pytest.mark.parametrize("where", ["x", "delta", "alpha"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_another_precision_is_promoted_as_torch_does(name, where, monkeypatch):
    values = given()
    values[where] = values[where].detach().float()
    values["slope"] = values["slope"].to(OPERATIONS[name](values["x"], values["delta"], values["alpha"]).dtype)
    same(*on_both(monkeypatch, OPERATIONS[name], values), where)


@pytest.mark.parametrize("shape", [(0, 3, 5, 2, 21), (4, 3, 5, 2, 0), (4, 0, 5, 2, 21)])
def test_no_networks_no_samples_and_no_features_are_nothing(shape, kernels):
    x, delta = torch.zeros(shape, requires_grad=True), torch.zeros(shape, requires_grad=True)
    assert seed_ops.bound_residual(x, delta).shape == shape
    out, is_finite = seed_ops.blend(x, delta, torch.ones(shape[0]), torch.ones(shape[0]))
    assert out.shape == shape and is_finite.tolist() == [1] * shape[0]
    assert all(grad.shape == shape for grad in torch.autograd.grad(out.sum(), (x, delta)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": lambda s: s[:, :2]}, "delta is .*4, 2, 5, 2, 21.*expected .*4, 3, 5, 2, 21"),
        ({"seed": lambda s: s[:3]}, "delta is"),
        ({"seed": lambda s: s.to("meta")}, "delta is .* on meta"),
        ({"alpha": lambda a: a[:3]}, "alpha is"),
        ({"straight_through": lambda t: t[:3]}, "through is"),
        ({"straight_through": lambda t: t[:, None]}, "through is"),
    ],
)
def test_tensors_that_do_not_belong_together_are_refused_by_name(changes, said):
    if native.load()[0] is None:
        pytest.skip(native.load()[1])
    host, seed, _ = tensors()
    values = {"host": host, "seed": seed, "alpha": torch.zeros(4).double(), "straight_through": torch.zeros(4).double()}
    values |= {name: change(values[name]) for name, change in changes.items()}
    with pytest.raises(EngineError, match=said):
        seed_ops.blend(**values)[0].sum().backward()
    if "seed" in changes:
        with pytest.raises(EngineError, match=said):
            seed_ops.bound_residual(host, values["seed"])

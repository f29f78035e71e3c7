"""Seeds' effect on the host for many networks, against the rules for one."""

import torch

from esper.engine import seed_ops
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
    through = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    out, ok = seed_ops.blend(host, seed, alpha, through)
    assert ok.tolist() == [1, 1, 0, 1]
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

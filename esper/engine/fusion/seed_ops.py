"""What a seed does to its host, for R networks at once; activations are [R, C, H, W, N] or any [R, ..., N].

The rules are those of `esper.kasmina.blending` and `esper.kasmina.isolation`, one row a network.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from esper.engine.kernels import native
from esper.kasmina.blending import BOUND_EPS


def isolate(x: Tensor, upstream_rows: Tensor) -> Tensor:
    """x, whose gradient reaches upstream only in rows where upstream_rows [R] is 1, and only if it is finite there."""
    return _Isolate.apply(x, upstream_rows)


class _Isolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, upstream_rows: Tensor) -> Tensor:
        ctx.save_for_backward(upstream_rows)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (upstream_rows,) = ctx.saved_tensors
        passes = (upstream_rows > 0) & _finite_rows(grad)
        return torch.where(_per_row(passes, grad), grad, 0.0), None


def bound_residual(x: Tensor, delta: Tensor, max_ratio: float = 1.0) -> Tensor:
    """x + delta, where each sample's |delta| stays below max_ratio |x|."""
    if native.is_supported(x) and delta.dtype is x.dtype:
        return native.apply(_NativeBound, x.contiguous(), delta.contiguous(), max_ratio)
    over = tuple(range(1, x.dim() - 1))
    limit = max_ratio**2 * x.square().sum(over, keepdim=True) + BOUND_EPS
    return x + delta * torch.rsqrt(1 + delta.square().sum(over, keepdim=True) / limit)


def bound_tokens(x: Tensor, delta: Tensor, max_ratio: float = 1.0) -> Tensor:
    """The same for [R, B, T, C], token by token: a norm over several tokens would tell of the future."""
    limit = max_ratio**2 * x.square().sum(-1, keepdim=True) + BOUND_EPS
    return x + delta * torch.rsqrt(1 + delta.square().sum(-1, keepdim=True) / limit)


class _NativeBound(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, delta: Tensor, max_ratio: float) -> Tensor:
        out, kept = torch.empty_like(x), x.new_empty(x.shape[0], 2, x.shape[-1])
        call = _call("bound_forward", x.shape, torch.get_num_threads(), max_ratio=max_ratio)
        call.run(x.dtype, {"x": x, "delta": delta, "out": out, "kept": kept})
        ctx.max_ratio = max_ratio
        ctx.save_for_backward(x, delta, kept)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, delta, kept = ctx.saved_tensors
        grad, grad_x, grad_delta = grad.contiguous(), torch.empty_like(x), torch.empty_like(x)
        call = _call("bound_backward", x.shape, torch.get_num_threads(), max_ratio=ctx.max_ratio)
        named = {"x": x, "delta": delta, "kept": kept, "grad_out": grad, "grad_x": grad_x, "grad_delta": grad_delta}
        call.run(x.dtype, named)
        return grad_x, grad_delta, None


def blend(host: Tensor, seed: Tensor, alpha: Tensor, straight_through: Tensor) -> tuple[Tensor, Tensor]:
    """host + alpha (seed - host), and which rows' seeds are finite [R] (1 or 0); a row that is not keeps the host.

    alpha [R] or, for gated blends, of as many dimensions as the features; through [R] is 1 where the seed's gradient is
    the output's own (straight through), however small alpha is.
    """
    lane_shape = (host.shape[0], *(1,) * (host.dim() - 2), host.shape[-1])
    per_lane = alpha.dim() == 1 or alpha.shape == lane_shape
    if native.is_supported(host) and per_lane and seed.dtype is host.dtype:
        lanes = alpha if alpha.dim() == 1 else alpha.reshape(alpha.shape[0], -1)
        if not lanes.dtype is straight_through.dtype is host.dtype:
            lanes, straight_through = lanes.to(host.dtype), straight_through.to(host.dtype)
        return native.apply(
            _NativeBlend, host.contiguous(), seed.contiguous(), lanes.contiguous(), straight_through.contiguous()
        )
    return _TorchBlend.apply(host, seed, alpha, straight_through)


class _NativeBlend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, host: Tensor, seed: Tensor, alpha: Tensor, straight_through: Tensor) -> tuple[Tensor, Tensor]:
        out, is_finite = torch.empty_like(host), host.new_empty(host.shape[0])
        call = _call("blend_forward", host.shape, torch.get_num_threads(), alpha.dim() == 2)
        call.run(host.dtype, {"x": host, "delta": seed, "alpha": alpha, "out": out, "is_finite": is_finite})
        ctx.mark_non_differentiable(is_finite)
        ctx.save_for_backward(host, seed, alpha, straight_through, is_finite)
        return out, is_finite

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        host, seed, alpha, straight_through, is_finite = ctx.saved_tensors
        grad, grad_host, grad_seed = grad.contiguous(), torch.empty_like(host), torch.empty_like(host)
        grad_alpha = host.new_empty(host.shape[0], host.shape[-1]) if ctx.needs_input_grad[2] else None
        call = _call("blend_backward", host.shape, torch.get_num_threads(), alpha.dim() == 2)
        named = {
            "x": host,
            "delta": seed,
            "alpha": alpha,
            "straight_through": straight_through,
            "is_finite": is_finite,
            "grad_out": grad,
        }
        call.run(host.dtype, named | {"grad_x": grad_host, "grad_delta": grad_seed, "grad_alpha": grad_alpha})
        if grad_alpha is not None and alpha.dim() == 1:
            grad_alpha = grad_alpha.sum(1)
        return grad_host, grad_seed, grad_alpha, None


class _TorchBlend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, host: Tensor, seed: Tensor, alpha: Tensor, straight_through: Tensor) -> tuple[Tensor, Tensor]:
        is_finite = _finite_rows(seed)
        alpha = alpha.to(host.dtype)
        ctx.save_for_backward(host, seed, alpha, straight_through, is_finite)
        ctx.mark_non_differentiable(is_finite)
        return torch.where(_per_row(is_finite, host), host + _lanes(alpha, host) * (seed - host), host), is_finite

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        host, seed, alpha, straight_through, is_finite = ctx.saved_tensors
        rows, lanes = _per_row(is_finite, grad), _lanes(alpha, grad)
        grad_host = torch.where(rows, grad * (1 - lanes), grad)
        grad_seed = torch.where(rows, grad * (lanes + _per_row(straight_through.to(grad.dtype), grad)), 0.0)
        grad_alpha = None
        if ctx.needs_input_grad[2]:
            grad_alpha = torch.where(rows, grad * (seed - host), 0.0).sum_to_size(lanes.shape).view_as(alpha)
        return grad_host, grad_seed, grad_alpha, None


def scatter(h: Tensor, indices: Sequence[Tensor | None], pieces: Sequence[Tensor]) -> Tensor:
    """h, some of whose rows are replaced by these pieces; an index of None stands for every row."""
    if not pieces:
        return h
    if indices[0] is None:
        return pieces[0]
    return _Scatter.apply(h, list(indices), *pieces)


class _Scatter(torch.autograd.Function):
    """h with some rows replaced; a chain of index_copy would copy all of h once a group, forward and backward."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, indices: list[Tensor], *pieces: Tensor) -> Tensor:
        ctx.indices = indices
        out = h.clone()
        for index, piece in zip(indices, pieces, strict=True):
            out.index_copy_(0, index, piece)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        pieces = [grad.index_select(0, index) for index in ctx.indices]
        rest = grad.clone()
        for index in ctx.indices:
            rest.index_fill_(0, index, 0)
        return rest, None, *pieces


@functools.lru_cache(maxsize=4096)
def _call(
    kernel: str, shape: tuple[int, ...], threads: int, alpha_per_sample: bool = False, max_ratio: float = 0.0
) -> native.Call:
    rows, samples = shape[0], shape[-1]
    size, lanes = math.prod(shape[1:-1]), (rows, samples)
    numbers = native.Seed(rows, size, samples, alpha_per_sample, threads, max_ratio, BOUND_EPS)
    alpha = {"alpha": lanes if alpha_per_sample else (rows,)}
    out, grads = {"out": shape}, {"grad_out": shape, "grad_x": shape, "grad_delta": shape}
    shapes: dict[str, tuple[int, ...]] = {"x": shape, "delta": shape}
    match kernel:
        case "bound_forward":
            shapes |= {"kept": (rows, 2, samples)} | out
        case "bound_backward":
            shapes |= {"kept": (rows, 2, samples)} | grads
        case "blend_forward":
            shapes |= {"is_finite": (rows,)} | alpha | out
        case "blend_backward":
            shapes |= {"is_finite": (rows,), "straight_through": (rows,), "grad_alpha": lanes} | alpha | grads
    return native.Call(kernel, numbers, shapes, optional=("grad_alpha",) if "grad_alpha" in shapes else ())


def _finite_rows(x: Tensor) -> Tensor:
    # Half precision holds a row, but not its sum.
    return torch.isfinite(x.flatten(1).sum(1, dtype=torch.promote_types(x.dtype, torch.float32)))


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (like.dim() - 1))


def _lanes(alpha: Tensor, like: Tensor) -> Tensor:
    return _per_row(alpha, like) if alpha.dim() == 1 else alpha

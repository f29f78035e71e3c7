"""Layer norm of vectors, and ReLU behind it, for R networks at once; activations are [R, C, N], samples innermost."""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from esper.engine.kernels import native


def layer_norm(x: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float, relu: bool) -> Tensor:
    """x [R or 1, C, N], gamma and beta [R, C] -> [R, C, N]; by the native kernel, or torch operations."""
    if gamma is not None and x.shape[0] < gamma.shape[0]:
        x = x.expand(gamma.shape[0], *x.shape[1:])
    if native.is_supported(x):
        return native.apply(_NativeLayerNorm, x, gamma, beta, eps, relu)
    out = F.layer_norm(x.transpose(1, 2), x.shape[1:2], eps=eps).transpose(1, 2)
    out = out if gamma is None else out * gamma.unsqueeze(-1)
    out = out if beta is None else out + beta.unsqueeze(-1)
    return F.relu(out) if relu else out


class _NativeLayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float, relu: bool) -> Tensor:
        x = x.contiguous()
        forward, ctx.call = _calls(x.shape, relu, torch.get_num_threads(), eps)
        out, kept = torch.empty_like(x), x.new_empty(x.shape[0], 2, x.shape[2])
        forward.run(x.dtype, {"x": x, "gamma": gamma, "beta": beta, "kept": kept, "out": out})
        ctx.save_for_backward(x, gamma, beta, kept, out if relu else None)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, gamma, beta, kept, out = ctx.saved_tensors
        grad_x = torch.empty_like(x)
        grads = [None if t is None else torch.empty_like(t) for t in (gamma, beta)]
        named = {"x": x, "gamma": gamma, "kept": kept, "out": out, "grad_out": grad.contiguous(), "grad_x": grad_x}
        ctx.call.run(x.dtype, named | {"grad_gamma": grads[0], "grad_beta": grads[1]})
        return grad_x, *grads, None, None


@functools.lru_cache(maxsize=4096)
def _calls(shape: tuple[int, ...], relu: bool, threads: int, eps: float) -> tuple[native.Call, native.Call]:
    rows, width, samples = shape
    numbers = native.LayerNorm(rows, width, samples, relu, threads, eps)
    both = {"x": shape, "gamma": (rows, width), "kept": (rows, 2, samples)}
    forward = both | {"beta": (rows, width), "out": shape}
    gradients = dict.fromkeys(("grad_gamma", "grad_beta"), (rows, width))
    backward = both | {"grad_out": shape, "grad_x": shape} | gradients | ({"out": shape} if relu else {})
    return (
        native.Call("layer_norm_forward", numbers, forward, optional=("gamma", "beta")),
        native.Call("layer_norm_backward", numbers, backward, optional=("gamma", *gradients)),
    )

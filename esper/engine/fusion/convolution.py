"""Convolutions of any stride, padding and dilation, along one dimension or two, for R networks at once.

Activations are [R, C, *space, N], samples innermost. The kernels have those that keep the size of an image; others are
what each tap of the kernel sees, side by side, times the weights: one batched product.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper.errors import EngineError


class Geometry(NamedTuple):
    """Of a convolution, one number for each dimension of space."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    depthwise: bool


def geometry(name: str, conv: nn.Conv1d | nn.Conv2d) -> Geometry:
    """What the layer of this name does. Raises EngineError where it cannot be fused."""
    depthwise = conv.groups == conv.in_channels == conv.out_channels and conv.groups > 1
    if conv.padding_mode != "zeros" or not (conv.groups == 1 or depthwise):
        raise EngineError(f"layer {name}: only convolutions that are dense or depthwise, padded by zeros, can be fused")
    padding = conv.padding
    if isinstance(padding, str):
        padding = tuple(_same(name, *sizes) for sizes in zip(conv.kernel_size, conv.dilation, strict=True))
        padding = padding if conv.padding == "same" else (0,) * len(padding)
    return Geometry(conv.kernel_size, conv.stride, padding, conv.dilation, depthwise)


def _same(name: str, kernel: int, dilation: int) -> int:
    around, uneven = divmod(dilation * (kernel - 1), 2)
    if uneven:
        raise EngineError(f"layer {name}: of 'same' padding, only what is even on both sides can be fused")
    return around


def convolve(facts: Geometry, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [R or 1, I, *space, N], weight [R, O, I, *kernel], bias [R, O] -> [R, O, *space', N]."""
    rows, outs = weight.shape[:2]
    columns = _Columns.apply(facts, x)
    if facts.depthwise:
        out = (weight.reshape(rows, outs, -1, 1) * columns.flatten(3)).sum(2)
    elif columns.shape[0] == 1:
        out = weight.reshape(rows * outs, -1) @ columns.flatten(3).flatten(1, 2)[0]
    else:
        out = torch.bmm(weight.reshape(rows, outs, -1), columns.flatten(3).flatten(1, 2))
    out = out.view(rows, outs, *columns.shape[3:])
    return out if bias is None else out + bias.view(rows, outs, *(1,) * (out.dim() - 2))


class _Columns(torch.autograd.Function):
    """What each tap sees, [R, I, taps, *space', N]; the way back adds it up in one place, not once for each tap."""

    @staticmethod
    def forward(ctx: Any, facts: Geometry, x: Tensor) -> Tensor:
        around: list[int] = [0, 0]  # the samples, which come last
        for padding in reversed(facts.padding):
            around += [padding, padding]
        padded = F.pad(x, around) if any(around) else x
        ctx.facts, ctx.shape = facts, padded.shape
        return torch.stack([padded[window] for window in _windows(facts, padded.shape[2:-1])], 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        padded = grad.new_zeros(ctx.shape)
        for tap, window in enumerate(_windows(ctx.facts, ctx.shape[2:-1])):
            padded[window] += grad[:, :, tap]
        inner = [
            slice(padding, size - padding) for padding, size in zip(ctx.facts.padding, ctx.shape[2:-1], strict=True)
        ]
        return None, padded[(slice(None), slice(None), *inner)]


def _windows(facts: Geometry, sizes: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Of each tap of the kernel, what it sees of features of these sizes, padded."""
    counts = [
        (size - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, dilation, stride in zip(sizes, facts.kernel, facts.dilation, facts.stride, strict=True)
    ]
    for tap in itertools.product(*map(range, facts.kernel)):
        starts = [place * dilation for place, dilation in zip(tap, facts.dilation, strict=True)]
        seen = zip(starts, counts, facts.stride, strict=True)
        yield (
            slice(None),
            slice(None),
            *(slice(start, start + stride * (count - 1) + 1, stride) for start, count, stride in seen),
        )

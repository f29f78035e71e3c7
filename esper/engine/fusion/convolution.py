"""Convolutions of any stride, padding and dilation, along one dimension or two, for R networks at once.

Activations are [R, C, *space, N], samples innermost. The kernels have those that keep the size of an image; others are
what each tap of the kernel sees, side by side, times the weights: one batched product.
"""

import itertools
from collections.abc import Sequence
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
    columns, space = _columns(facts, x)  # [R or 1, I, taps, *space', N]
    samples = x.shape[-1]
    if facts.depthwise:
        out = (weight.reshape(rows, outs, -1, 1) * columns.flatten(3)).sum(2)
    elif columns.shape[0] == 1:
        out = weight.reshape(rows * outs, -1) @ columns.view(-1, columns[0, 0, 0].numel())
    else:
        out = torch.bmm(weight.reshape(rows, outs, -1), columns.flatten(3).flatten(1, 2))
    out = out.view(rows, outs, *space, samples)
    return out if bias is None else out + bias.view(rows, outs, *(1,) * (len(space) + 1))


def _columns(facts: Geometry, x: Tensor) -> tuple[Tensor, Sequence[int]]:
    around: list[Any] = [0, 0]  # the samples, which come last
    for padding in reversed(facts.padding):
        around += [padding, padding]
    x = F.pad(x, around) if any(around) else x
    sizes = x.shape[2:-1]
    reach = [dilation * (kernel - 1) for kernel, dilation in zip(facts.kernel, facts.dilation, strict=True)]
    space = [(size - far - 1) // stride + 1 for size, far, stride in zip(sizes, reach, facts.stride, strict=True)]
    taps = []
    for tap in itertools.product(*map(range, facts.kernel)):
        starts = [place * dilation for place, dilation in zip(tap, facts.dilation, strict=True)]
        windows = zip(starts, space, facts.stride, strict=True)
        seen = [slice(start, start + stride * (count - 1) + 1, stride) for start, count, stride in windows]
        taps.append(x[(slice(None), slice(None), *seen)])
    return torch.stack(taps, 2), space

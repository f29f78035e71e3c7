"""One block of layers for R networks at once: convolution, batch norm, ReLU, 2x2 max pooling; any may be missing.

Activations are [R, C, H, W, N]: R networks, samples innermost (docs/shapes.md). `block` runs the native kernels where
they apply and torch operations elsewhere; both give the same values.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from esper.engine import native


@dataclass(frozen=True, slots=True)
class BlockSpec:
    """The fixed facts of a block. kernel: 0 (no convolution), 1 or 3."""

    kernel: int = 0
    depthwise: bool = False
    norm: bool = False
    relu: bool = False
    pool: bool = False
    eps: float = 1e-5
    momentum: float = 0.1


class BlockTensors(NamedTuple):
    """What a block owns: weight [R, O, I, k, k], the rest [R, O]."""

    weight: Tensor | None = None
    bias: Tensor | None = None
    gamma: Tensor | None = None
    beta: Tensor | None = None
    running_mean: Tensor | None = None
    running_var: Tensor | None = None


def block(spec: BlockSpec, x: Tensor, tensors: BlockTensors, training: bool) -> Tensor:
    """x [R or 1, C, H, W, N] -> [R, O, H', W', N]; one input row serves every network.

    In training, batch statistics normalise and the running ones are updated in place.
    """
    if native.applies(x):
        return native.apply(_NativeBlock, spec, training, x, *tensors)
    return _torch_block(spec, x, tensors, training)


class _NativeBlock(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spec: BlockSpec, training: bool, x: Tensor, *tensors: Tensor | None) -> Tensor:
        named = BlockTensors(*tensors)
        x = x.contiguous()
        owner = named.weight if named.weight is not None else named.gamma
        rows = x.shape[0] if owner is None else owner.shape[0]
        _, channels, height, width, samples = x.shape
        out_channels = channels if named.weight is None else named.weight.shape[1]
        kept = x.new_empty(0)
        if spec.kernel and (spec.norm or spec.relu or spec.pool) and any(ctx.needs_input_grad):
            kept = x.new_empty(rows, out_channels, height, width, samples)
        mean, invstd = x.new_empty(2, rows, out_channels) if spec.norm else (None, None)
        shape = (height // 2, width // 2) if spec.pool else (height, width)
        out = x.new_empty(rows, out_channels, *shape, samples)
        args = _arguments(spec, training, x, rows, out_channels)
        native.point(args, x=x, y=kept if kept.numel() else None, mean=mean, invstd=invstd, out=out, **named._asdict())
        native.call("block_forward", args, x.dtype)
        ctx.spec, ctx.training, ctx.rows = spec, training, rows
        ctx.save_for_backward(x, kept, mean, invstd, *tensors[:4])
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
        x, kept, mean, invstd, *parameters = ctx.saved_tensors
        grad_out = grad_out.contiguous()  # by name: only the address goes to the kernel
        named = BlockTensors(*parameters)
        out_channels = x.shape[1] if named.weight is None else named.weight.shape[1]
        grad_x = x.new_empty(ctx.rows, *x.shape[1:]) if ctx.needs_input_grad[2] else None
        grads = [None if p is None else torch.empty_like(p) for p in parameters]
        args = _arguments(ctx.spec, ctx.training, x, ctx.rows, out_channels)
        native.point(args, x=x, y=kept, mean=mean, invstd=invstd, grad_out=grad_out, grad_x=grad_x)
        native.point(args, **named._asdict())
        native.point(args, grad_weight=grads[0], grad_bias=grads[1], grad_gamma=grads[2], grad_beta=grads[3])
        native.call("block_backward", args, x.dtype)
        if grad_x is not None and x.shape[0] != ctx.rows:
            grad_x = grad_x.sum(0, keepdim=True)
        return None, None, grad_x, *grads, None, None


def _arguments(spec: BlockSpec, training: bool, x: Tensor, rows: int, out_channels: int) -> native.Block:
    args = native.Block(rows=rows, out_channels=out_channels, training=training, threads=torch.get_num_threads())
    _, args.in_channels, args.height, args.width, args.samples = x.shape
    args.kernel, args.depthwise, args.norm = spec.kernel, spec.depthwise, spec.norm
    args.relu, args.pool, args.eps, args.momentum = spec.relu, spec.pool, spec.eps, spec.momentum
    args.x_row_stride = 0 if x.shape[0] == 1 else x[0].numel()
    return args


def _torch_block(spec: BlockSpec, x: Tensor, tensors: BlockTensors, training: bool) -> Tensor:
    if spec.kernel:
        x = _Convolution.apply(x, tensors.weight, spec.depthwise)
        if tensors.bias is not None:
            x = x + tensors.bias[:, :, None, None, None]
    if spec.norm:
        assert tensors.gamma is not None
        # One "sample" whose channels are all channels of all networks: statistics per network and channel.
        flat = x.expand(tensors.gamma.shape[0], *x.shape[1:]).reshape(1, tensors.gamma.numel(), -1)
        mean, var, gamma, beta = (
            None if t is None else t.reshape(-1)
            for t in (tensors.running_mean, tensors.running_var, tensors.gamma, tensors.beta)
        )
        normed = F.batch_norm(flat, mean, var, gamma, beta, training, spec.momentum, spec.eps)
        x = normed.view(tensors.gamma.shape[0], *x.shape[1:])
    if spec.relu:
        x = F.relu(x)
    if spec.pool:
        rows, channels, height, width, samples = x.shape
        x = x[:, :, : height // 2 * 2, : width // 2 * 2]
        x = x.reshape(rows, channels, height // 2, 2, width // 2, 2, samples).amax((3, 5))
    return x


def _unfold(x: Tensor, kernel: int) -> Tensor:
    """[R, C, H, W, N] -> [R, C, k*k, H*W*N], the neighbourhood of every position."""
    rows, channels, height, width, _ = x.shape
    if kernel == 1:
        return x.reshape(rows, channels, 1, -1)
    padded = F.pad(x, (0, 0, 1, 1, 1, 1))
    shifts = [padded[:, :, dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3)]
    return torch.stack(shifts, 2).view(rows, channels, 9, -1)


class _Convolution(torch.autograd.Function):
    """Unfolded input times weights, one batched product; the way back is a convolution with the mirrored kernel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, depthwise: bool) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight = x.to(dtype), weight.to(dtype)
        ctx.depthwise = depthwise
        ctx.save_for_backward(x, weight)
        return _product(_unfold(x, weight.shape[-1]), weight, depthwise, x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:
        x, weight = ctx.saved_tensors
        rows, outs, _, kernel, _ = weight.shape
        grad = grad.to(weight.dtype)
        mirrored = weight.flip(3, 4) if ctx.depthwise else weight.transpose(1, 2).flip(3, 4)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = _product(_unfold(grad, kernel), mirrored, ctx.depthwise, grad.shape)
            if x.shape[0] != rows:
                grad_x = grad_x.sum(0, keepdim=True)
        columns, flat = _unfold(x, kernel), grad.reshape(rows, outs, -1)
        if ctx.depthwise:
            grad_weight = (columns @ flat.unsqueeze(-1)).view_as(weight)
        else:
            columns = columns.flatten(1, 2).expand(rows, -1, -1)
            grad_weight = torch.bmm(flat, columns.transpose(1, 2)).view_as(weight)
        return grad_x, grad_weight, None


def _product(columns: Tensor, weight: Tensor, depthwise: bool, shape: torch.Size) -> Tensor:
    rows, outs = weight.shape[:2]
    if depthwise:
        out = weight.reshape(rows, outs, 1, -1) @ columns
    elif columns.shape[0] == 1:
        out = weight.reshape(rows * outs, -1) @ columns.flatten(1, 2)[0]
    else:
        out = torch.bmm(weight.reshape(rows, outs, -1), columns.flatten(1, 2))
    return out.view(rows, outs, *shape[2:])

"""One block of layers for R networks at once: convolution, batch norm, ReLU, 2x2 max pooling; any may be missing.

Activations are [R, C, H, W, N]: R networks, samples innermost (docs/shapes.md). `block` runs the native kernels where
they apply and torch operations elsewhere; both give the same values.
"""

import functools
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from esper.engine.kernels import native
from esper.errors import EngineError


class BlockSpec(NamedTuple):
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

    In training, batch statistics normalise and the running ones, which must be contiguous, are updated in place.
    Raises EngineError for what a block cannot do, and where the kernels run for tensors that do not belong together.
    """
    owner = tensors.weight if spec.kernel else tensors.gamma
    if owner is None and (spec.kernel or spec.norm):
        raise EngineError(f"a block of {spec}: its {'weight' if spec.kernel else 'gamma'} is missing")
    owned = x.shape[:2] if owner is None else owner.shape[:2]
    plan = _plan(spec, training, torch.get_num_threads(), x.shape, owned)
    if plan.is_empty:  # a sum of nothing, whose gradients are zeros
        return sum((t.sum() for t in (x, *tensors[:4]) if t is not None), start=x.new_zeros(plan.out))
    if native.is_supported(x):
        return native.apply(_NativeBlock, plan, x, *tensors)
    return _torch_block(spec, x, tensors, training)


class _Plan(NamedTuple):
    """What follows from a block's facts and its input's shape alone."""

    rows: int
    channels: int
    convolved: tuple[int, ...] | None  # the shape of what must be kept for the way back
    out: tuple[int, ...]
    is_empty: bool
    forward: native.Call
    backward: native.Call


@functools.lru_cache(maxsize=4096)
def _plan(spec: BlockSpec, training: bool, threads: int, x_shape: tuple[int, ...], owned: tuple[int, ...]) -> _Plan:
    if len(x_shape) != 5 or len(owned) != 2:
        raise EngineError(f"a block takes [R, C, H, W, N] and tensors of [R, O, ...], not {list(x_shape)}")
    (x_rows, ins, height, width, samples), (rows, outs) = x_shape, owned
    if spec.kernel not in (0, 1, 3) or ((spec.depthwise or not spec.kernel) and ins != outs) or x_rows not in (1, rows):
        raise EngineError(f"a block of {list(x_shape)} to {outs} channels in {rows} networks: no kernel does {spec}")
    if spec.pool and min(height, width) < 2:
        raise EngineError(f"2x2 max pooling leaves nothing of features of {height}x{width}")
    if spec.norm and training and height * width * samples == 1:
        raise EngineError("batch norm learns nothing from one value per channel: train on two examples or more")
    numbers = native.Block(rows, ins, outs, height, width, samples, spec.kernel, spec.depthwise, spec.norm, spec.relu)
    numbers.pool, numbers.training, numbers.threads = spec.pool, training, threads
    numbers.x_row_stride = 0 if x_rows == 1 else ins * height * width * samples
    numbers.eps, numbers.momentum = spec.eps, spec.momentum

    per_channel = (rows, outs)
    convolved = (rows, outs, height, width, samples)
    out = (rows, outs, height // 2, width // 2, samples) if spec.pool else convolved
    is_kept = bool(spec.kernel) and (spec.norm or spec.relu or spec.pool)
    weight = {"weight": (rows, outs, 1 if spec.depthwise else ins, spec.kernel, spec.kernel)} if spec.kernel else {}
    bias = {"bias": per_channel} if spec.kernel else {}
    kept = {"y": convolved} if is_kept else {}
    norm = dict.fromkeys(("gamma", "beta", "mean", "invstd") if spec.norm else (), per_channel)
    running = dict.fromkeys(("running_mean", "running_var") if spec.norm else (), per_channel)
    common = {"x": x_shape, **weight, **norm, **kept}
    gradients = {
        f"grad_{name}": shape for name, shape in (weight | bias | norm).items() if name not in ("mean", "invstd")
    }
    return _Plan(
        *per_channel,
        convolved if is_kept else None,
        out,
        0 in out,
        native.Call("block_forward", numbers, common | bias | running | {"out": out}, optional=("y", "bias")),
        native.Call(
            "block_backward",
            numbers,
            common | gradients | {"grad_out": out, "grad_x": (rows, *x_shape[1:])},
            optional=("grad_x", "grad_bias"),
        ),
    )


class _NativeBlock(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _Plan, x: Tensor, *tensors: Tensor | None) -> Tensor:
        x = x.contiguous()
        parameters = [None if t is None else t.contiguous() for t in tensors[:4]]
        weight, bias, gamma, beta = parameters
        mean, invstd = x.new_empty(2, plan.rows, plan.channels) if "mean" in plan.forward.shapes else (None, None)
        y = x.new_empty(plan.convolved) if plan.convolved is not None and any(ctx.needs_input_grad) else None
        out = x.new_empty(plan.out)
        named = {"x": x, "weight": weight, "bias": bias, "gamma": gamma, "beta": beta, "y": y, "mean": mean}
        named |= {"invstd": invstd, "running_mean": tensors[4], "running_var": tensors[5], "out": out}
        plan.forward.run(x.dtype, named)
        ctx.plan = plan
        ctx.save_for_backward(x, y, mean, invstd, *parameters)
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
        x, y, mean, invstd, *parameters = ctx.saved_tensors
        weight, _, gamma, beta = parameters
        plan = ctx.plan
        grad_x = x.new_empty(plan.rows, *x.shape[1:]) if ctx.needs_input_grad[1] else None
        grads = [None if p is None else torch.empty_like(p) for p in parameters]
        named = {"x": x, "y": y, "mean": mean, "invstd": invstd, "weight": weight, "gamma": gamma, "beta": beta}
        named |= {"grad_out": grad_out.contiguous(), "grad_x": grad_x, "grad_weight": grads[0], "grad_bias": grads[1]}
        named |= {"grad_gamma": grads[2], "grad_beta": grads[3]}
        plan.backward.run(x.dtype, named)
        if grad_x is not None and x.shape[0] != plan.rows:
            grad_x = grad_x.sum(0, keepdim=True)
        return None, grad_x, *grads, None, None


def _torch_block(spec: BlockSpec, x: Tensor, tensors: BlockTensors, training: bool) -> Tensor:
    if spec.kernel:
        x = _Convolution.apply(x, tensors.weight, spec.depthwise)
        if tensors.bias is not None:
            x = x + tensors.bias[:, :, None, None, None]
    if spec.norm:
        assert tensors.gamma is not None
        # One "sample" whose channels are all channels of all networks: statistics per network and channel.
        flat = x.expand(tensors.gamma.shape[0], *x.shape[1:]).reshape(1, tensors.gamma.numel(), -1)
        mean, var = (None if t is None else _written(t) for t in (tensors.running_mean, tensors.running_var))
        gamma, beta = (None if t is None else t.reshape(-1) for t in (tensors.gamma, tensors.beta))
        normed = F.batch_norm(flat, mean, var, gamma, beta, training, spec.momentum, spec.eps)
        x = normed.view(tensors.gamma.shape[0], *x.shape[1:])
    if spec.relu:
        x = F.relu(x)
    if spec.pool:
        x = F.max_pool3d(x, (2, 2, 1))  # two by two positions of one sample: the third axis is the samples
    return x


def _written(statistics: Tensor) -> Tensor:
    if not statistics.is_contiguous():
        raise EngineError(f"running statistics of strides {statistics.stride()}: updates would be lost in a copy")
    return statistics.view(-1)


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

"""Images of many networks as [R, C, H, W, N], series as [R, C, L, N], vectors as [R, C, N]: samples innermost.

One vector lane is one sample. Chains of convolution, batch norm, ReLU and pooling run as one block, layer norm and the
ReLU behind it as one call.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from esper.engine.fusion.convolution import Geometry, convolve, geometry
from esper.engine.fusion.losses import class_losses, target_losses
from esper.engine.fusion.seed_ops import bound_residual
from esper.engine.fusion.tracing import LayerFn, Modules, Tensors, bound_arguments
from esper.engine.kernels.block import BlockSpec, BlockTensors, block
from esper.engine.kernels.layer_norm import layer_norm
from esper.errors import EngineError
from esper.kasmina import blending
from esper.leyline import CROSS_ENTROPY


class ImageLayout:
    """The layout of convolutional hosts, of images and of series; see `esper.engine.fusion.tracing.Layout`."""

    leaves: tuple[type[nn.Module], ...] = ()

    def to_layout(self, x: Tensor) -> Tensor:
        """x [J, B, C, H, W] -> [J, C, H, W, B]; x [J, B, C, L] -> [J, C, L, B]."""
        return x.movedim(1, -1).contiguous()

    def fusable_chain(self, node: fx.Node, modules: Modules) -> list[fx.Node]:
        """See `Layout.fusable_chain`."""
        return _chain(node, modules) or _normed(node, modules) or [node]

    def lower(self, chain: list[fx.Node], modules: Modules) -> LayerFn | None:
        """See `Layout.lower`."""
        node = chain[0]
        if _chain(node, modules):
            return _block(chain, modules)
        if node.op == "call_function" and node.target is blending.bound_residual:
            max_ratio = bound_arguments(node, by_token=False)
            return lambda inputs, tensors, training: bound_residual(inputs[0], inputs[1], max_ratio)
        layer: Any = modules.get(str(node.target)) if node.op == "call_module" else None
        if type(layer) in _MEANS and layer.output_size in (1, (1,), (1, 1)):
            return lambda inputs, tensors, training: inputs[0].mean(tuple(range(2, inputs[0].dim() - 1)), keepdim=True)
        if type(layer) in (nn.AvgPool2d, nn.MaxPool1d):
            return _pooling(str(node.target), layer)
        if type(layer) is nn.Flatten and layer.start_dim >= 1:
            end = layer.end_dim - (layer.end_dim < 0)  # the samples come last
            return lambda inputs, tensors, training: inputs[0].flatten(layer.start_dim, end)
        if type(layer) is nn.Linear:
            return _linear(str(node.target))
        if type(layer) is nn.LayerNorm and len(layer.normalized_shape) == 1:
            return _layer_norm(str(node.target), layer.eps, len(chain) == 2)
        return None

    def gate(self, features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """features [g, C, *space, N], weight [g, 1, C], bias [g, 1] -> [g, 1, *(1 for each of space), N]."""
        over = tuple(range(2, features.dim() - 1))
        logits = torch.baddbmm(bias.unsqueeze(-1), weight, features.mean(over) if over else features)
        return torch.sigmoid(logits)[(slice(None), slice(None), *(None,) * len(over))]

    def losses(self, outputs: Tensor, y: Tensor, loss: str) -> tuple[Tensor, Tensor]:
        """outputs [M, K, N], y [M or 1, N] of classes, [M or 1, N, K] of targets."""
        return class_losses(outputs, y) if loss == CROSS_ENTROPY else target_losses(outputs.transpose(1, 2), y, loss)


_MEANS = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)
_KINDS: dict[type, str] = {
    nn.Conv1d: "conv",
    nn.Conv2d: "conv",
    nn.BatchNorm1d: "norm",
    nn.BatchNorm2d: "norm",
    nn.ReLU: "relu",
    nn.MaxPool2d: "pool",
}


def _kind(node: fx.Node, modules: Modules) -> str:
    """Of a layer of exactly this class: one that derives from it may compute something else."""
    if node.op == "call_function":
        return "relu" if node.target in (F.relu, torch.relu) and len(node.args) == 1 else ""
    kind = type(modules.get(str(node.target))) if node.op == "call_module" else type(None)
    return _KINDS.get(kind, "")


def _chain(node: fx.Node, modules: Modules) -> list[fx.Node]:
    """The longest run of convolution, norm, ReLU, pooling (in this order) that starts here; a lone ReLU is none."""
    order = ("conv", "norm", "relu", "pool")
    chain: list[fx.Node] = []
    reached = -1
    while (kind := _kind(node, modules)) and order.index(kind) > reached:
        chain.append(node)
        reached = order.index(kind)
        if len(node.users) != 1:
            break
        node = next(iter(node.users))
    return [] if [_kind(n, modules) for n in chain] == ["relu"] else chain


def _normed(node: fx.Node, modules: Modules) -> list[fx.Node]:
    """A layer norm and the ReLU behind it, where both are here."""
    if node.op != "call_module" or type(modules.get(str(node.target))) is not nn.LayerNorm or len(node.users) != 1:
        return []
    behind = next(iter(node.users))
    return [node, behind] if _kind(behind, modules) == "relu" else []


def _block(chain: list[fx.Node], modules: Modules) -> LayerFn:
    facts: dict[str, Any] = {}
    names: dict[str, str] = {}
    convolution: LayerFn | None = None  # where the block has no kernel for it
    for node in chain:
        name, module = str(node.target), modules.get(str(node.target))
        match module:
            case nn.Conv1d() | nn.Conv2d():
                own = geometry(name, module)
                if _is_same(own):
                    facts |= {"kernel": own.kernel[0], "depthwise": own.depthwise}
                    names |= {"weight": f"{name}.weight"} | ({} if module.bias is None else {"bias": f"{name}.bias"})
                else:
                    convolution = _convolution(name, own)
            case nn.BatchNorm1d() | nn.BatchNorm2d():
                if not (module.affine and module.track_running_stats and module.momentum is not None):
                    raise EngineError(f"layer {name}: only affine batch norm with running statistics and a momentum")
                facts |= {"norm": True, "eps": module.eps, "momentum": module.momentum}
                names |= {"gamma": f"{name}.weight", "beta": f"{name}.bias"}
                names |= {statistic: f"{name}.{statistic}" for statistic in ("running_mean", "running_var")}
            case nn.MaxPool2d():
                pooling = (module.kernel_size, module.stride, module.padding, module.dilation)
                if pooling != (2, 2, 0, 1) or module.ceil_mode or module.return_indices:
                    raise EngineError(f"layer {name}: only 2x2 max pooling can be fused")
                facts["pool"] = True
            case _:
                facts["relu"] = True
    if convolution is not None and not facts:
        return convolution
    spec = BlockSpec(**facts)

    def run(inputs: list[Tensor], tensors: Tensors, training: bool) -> Tensor:
        x = inputs[0] if convolution is None else convolution(inputs, tensors, training)
        own = BlockTensors(**{k: tensors[v] for k, v in names.items()})
        if x.dim() == 5:
            return block(spec, x, own, training)
        flat = block(spec, x.reshape(*x.shape[:2], 1, -1, x.shape[-1]), own, training)  # of series or vectors
        return flat.reshape(*flat.shape[:2], *x.shape[2:])

    return run


def _is_same(own: Geometry) -> bool:
    """Whether the kernels have it: 1x1 and 3x3, keeping the size."""
    side = own.kernel[0]
    return own == Geometry((side,) * 2, (1, 1), (side // 2,) * 2, (1, 1), own.depthwise) and side in (1, 3)


def _convolution(name: str, own: Geometry) -> LayerFn:
    def run(inputs: list[Tensor], tensors: Tensors, training: bool) -> Tensor:
        return convolve(own, inputs[0], tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))

    return run


def _pooling(name: str, pool: nn.AvgPool2d | nn.MaxPool1d) -> LayerFn:
    """The pooling of torch, with a dimension more that nothing is pooled along: the samples."""
    if isinstance(pool, nn.AvgPool2d):
        kernel, stride, padding = (_sizes(each, 2) for each in (pool.kernel_size, pool.stride, pool.padding))
        settings = (pool.ceil_mode, pool.count_include_pad, pool.divisor_override)
        return lambda inputs, tensors, training: F.avg_pool3d(
            inputs[0], (*kernel, 1), (*stride, 1), (*padding, 0), *settings
        )
    if pool.return_indices:
        raise EngineError(f"layer {name}: gives indices, too, and cannot be fused")
    kernel, stride, padding = (_sizes(each, 1) for each in (pool.kernel_size, pool.stride, pool.padding))
    dilation = _sizes(pool.dilation, 1)
    return lambda inputs, tensors, training: F.max_pool2d(
        inputs[0], (*kernel, 1), (*stride, 1), (*padding, 0), (*dilation, 1), pool.ceil_mode
    )


def _sizes(given: int | tuple[int, ...], dims: int) -> tuple[int, ...]:
    return given if isinstance(given, tuple) else (given,) * dims


def _linear(name: str) -> LayerFn:
    def run(inputs: list[Tensor], tensors: Tensors, training: bool) -> Tensor:
        weight, bias = tensors[f"{name}.weight"], tensors.get(f"{name}.bias")
        return _by_feature(inputs[0], lambda x: _product(x, weight, bias))

    return run


def _layer_norm(name: str, eps: float, relu: bool) -> LayerFn:
    def run(inputs: list[Tensor], tensors: Tensors, training: bool) -> Tensor:
        gamma, beta = tensors.get(f"{name}.weight"), tensors.get(f"{name}.bias")
        return _by_feature(inputs[0], lambda x: layer_norm(x, gamma, beta, eps, relu))

    return run


def _by_feature(x: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
    """run takes [R, C, N] and gives [R, O, N]; x [R, ..., C, N], whose other dimensions count as samples to it."""
    if x.dim() == 3:
        return run(x)
    moved = x.movedim(-2, 1)
    out = run(moved.flatten(2))
    return out.view(*out.shape[:2], *moved.shape[2:]).movedim(1, -2)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [R or 1, I, N], weight [R, O, I], bias [R, O] -> [R, O, N]."""
    rows, outs, ins = weight.shape
    if x.shape[0] < rows:  # what all networks read: one product for all of them
        flat = weight.reshape(-1, ins)
        out = flat @ x[0] if bias is None else torch.addmm(bias.reshape(-1, 1), flat, x[0])
        return out.view(rows, outs, -1)
    return torch.bmm(weight, x) if bias is None else torch.baddbmm(bias.unsqueeze(-1), weight, x)

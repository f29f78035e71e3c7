"""Images of many networks as [R, C, H, W, N]: samples innermost, one vector lane a sample.

Chains of convolution, batch norm, ReLU and pooling run as one block.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from esper.engine.fusion.losses import class_losses
from esper.engine.fusion.seed_ops import bound_residual
from esper.engine.fusion.tracing import LayerFn, Modules, Tensors, bound_arguments
from esper.engine.kernels.block import BlockSpec, BlockTensors, block
from esper.errors import EngineError
from esper.kasmina import blending


class ImageLayout:
    """The layout of convolutional hosts; see `esper.engine.fusion.tracing.Layout`."""

    leaves: tuple[type[nn.Module], ...] = ()

    def to_layout(self, x: Tensor) -> Tensor:
        """x [J, B, C, H, W] -> [J, C, H, W, B]."""
        return x.permute(0, 2, 3, 4, 1).contiguous()

    def fusable_chain(self, node: fx.Node, modules: Modules) -> list[fx.Node]:
        """See `Layout.fusable_chain`."""
        return _chain(node, modules) or [node]

    def lower(self, chain: list[fx.Node], modules: Modules) -> LayerFn | None:
        """See `Layout.lower`."""
        node = chain[0]
        if _chain(node, modules):
            return _block(chain, modules)
        if node.op == "call_function" and node.target is blending.bound_residual:
            max_ratio = bound_arguments(node, by_token=False)
            return lambda inputs, tensors, training: bound_residual(inputs[0], inputs[1], max_ratio)
        layer: Any = modules.get(str(node.target)) if node.op == "call_module" else None
        if type(layer) is nn.AdaptiveAvgPool2d and layer.output_size in (1, (1, 1)):
            return lambda inputs, tensors, training: inputs[0].mean((2, 3), keepdim=True)
        if type(layer) is nn.Flatten and (layer.start_dim, layer.end_dim) == (1, -1):
            return lambda inputs, tensors, training: inputs[0].flatten(1, -2)
        if type(layer) is nn.Linear:
            return _linear(str(node.target), layer.bias is not None)
        return None

    def gate(self, features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """features [g, C, H, W, N], weight [g, 1, C], bias [g, 1] -> [g, 1, 1, 1, N]."""
        logits = torch.baddbmm(bias.unsqueeze(-1), weight, features.mean((2, 3)))
        return torch.sigmoid(logits)[:, :, None, None]

    def losses(self, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """logits [M, K, N], y [M or 1, N]."""
        return class_losses(logits, y)


def _kind(node: fx.Node, modules: Modules) -> str:
    """Of a layer of exactly this class: one that derives from it may compute something else."""
    if node.op == "call_function":
        return "relu" if node.target in (F.relu, torch.relu) and len(node.args) == 1 else ""
    kind = type(modules.get(str(node.target))) if node.op == "call_module" else type(None)
    return {nn.Conv2d: "conv", nn.BatchNorm2d: "norm", nn.ReLU: "relu", nn.MaxPool2d: "pool"}.get(kind, "")


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


def _block(chain: list[fx.Node], modules: Modules) -> LayerFn:
    facts: dict[str, Any] = {}
    names: dict[str, str] = {}
    for node in chain:
        name, module = str(node.target), modules.get(str(node.target))
        match module:
            case nn.Conv2d():
                facts |= _convolution_facts(name, module)
                names |= {"weight": f"{name}.weight"} | ({} if module.bias is None else {"bias": f"{name}.bias"})
            case nn.BatchNorm2d():
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
    spec = BlockSpec(**facts)

    def run(inputs: list[Tensor], tensors: Tensors, training: bool) -> Tensor:
        return block(spec, inputs[0], BlockTensors(**{k: tensors[v] for k, v in names.items()}), training)

    return run


def _convolution_facts(name: str, conv: nn.Conv2d) -> dict[str, Any]:
    kernel = conv.kernel_size[0]
    depthwise = conv.groups == conv.in_channels == conv.out_channels and conv.groups > 1
    same = conv.padding in ((kernel // 2, kernel // 2), "same") and conv.stride == (1, 1) and conv.dilation == (1, 1)
    square = conv.kernel_size in ((1, 1), (3, 3))
    if not (same and square and (conv.groups == 1 or depthwise) and conv.padding_mode == "zeros"):
        raise EngineError(f"layer {name}: only 1x1 and 3x3 'same' convolutions, dense or depthwise, can be fused")
    return {"kernel": kernel, "depthwise": depthwise}


def _linear(name: str, has_bias: bool) -> LayerFn:
    def run(inputs: list[Tensor], tensors: Tensors, training: bool) -> Tensor:
        (x,), weight = inputs, tensors[f"{name}.weight"]
        x = x.expand(weight.shape[0], *x.shape[1:])
        if not has_bias:
            return torch.bmm(weight, x)
        return torch.baddbmm(tensors[f"{name}.bias"].unsqueeze(-1), weight, x)

    return run

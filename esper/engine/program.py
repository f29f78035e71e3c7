"""A module's forward pass for R networks at once, derived by tracing the module itself.

The plain module stays the only definition of an architecture. Tracing turns it into a list of steps over activations
[R, C, H, W, N] or [R, C, N]; chains of convolution, batch norm, ReLU and pooling become single blocks. What no rule
covers is refused with its name, and the population then trains its members one after another.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from esper.engine.block import BlockSpec, BlockTensors, block
from esper.engine.engine import Captured, Values
from esper.engine.seed_ops import bound_residual
from esper.errors import EngineError
from esper.kasmina import blending
from esper.kasmina.slot import SeedSlot

Tensors = Mapping[str, Tensor]
Run = Callable[[list[Tensor], Tensors, bool], Tensor]


@dataclass(frozen=True, slots=True)
class Step:
    """One operation: reads values by name, writes one; `drops` are values nobody reads later."""

    run: Run | None
    inputs: tuple[str, ...]
    output: str
    slot: str | None
    drops: tuple[str, ...]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return isinstance(module, SeedSlot) or super().is_leaf_module(module, qualified_name)


class Program:
    """Steps of one module. Raises EngineError for a layer that cannot be fused."""

    def __init__(self, module: nn.Module) -> None:
        try:
            graph = _Tracer().trace(module)
        except (fx.proxy.TraceError, TypeError) as error:
            raise EngineError(f"{type(module).__name__}.forward cannot be traced: {error}") from error
        self.steps = _compile(graph, dict(module.named_modules()))
        self.input = next(node.name for node in graph.nodes if node.op == "placeholder")
        self.slots = {step.slot: index for index, step in enumerate(self.steps) if step.slot is not None}

    def run(
        self,
        values: Values,
        tensors: Tensors,
        training: bool,
        slot: Callable[[str, Tensor], Tensor] | None = None,
        start: int = 0,
        captured: Captured | None = None,
    ) -> Tensor:
        """Run the steps from `start` on `values` (for start 0: {program.input: x}).

        tensors: parameters and buffers by their name in the module, [R, ...]. slot: what stands at a slot. captured:
        receives, per slot, the values alive before it, from which a later run can start.
        """
        values = dict(values)
        out = next(iter(values.values()))
        for step in self.steps[start:]:
            inputs = [values[name] for name in step.inputs]
            if step.run is not None:
                out = step.run(inputs, tensors, training)
            elif step.slot is not None:
                if captured is not None:
                    captured[step.slot] = dict(values)
                out = inputs[0] if slot is None else slot(step.slot, inputs[0])
            for name in step.drops:
                del values[name]
            values[step.output] = out
        return out


def _compile(graph: fx.Graph, modules: dict[str, nn.Module]) -> tuple[Step, ...]:
    drafts: list[tuple[Run | None, list[fx.Node], fx.Node, str | None]] = []
    merged: set[fx.Node] = set()
    result: fx.Node | None = None
    for node in graph.nodes:
        if node in merged or node.op == "placeholder":
            continue
        if node.op == "output":
            result = node.args[0]
            continue
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, SeedSlot):
            drafts.append((None, list(node.all_input_nodes), node, module.slot_id))
            continue
        chain = _chain(node, modules)
        if chain:
            merged.update(chain)
            drafts.append((_block(chain, modules), list(node.all_input_nodes), chain[-1], None))
            continue
        drafts.append((_single(node, module), list(node.all_input_nodes), node, None))
    last_use = {source: index for index, draft in enumerate(drafts) for source in draft[1]}
    if result is None or not drafts or result is not drafts[-1][2]:
        raise EngineError("the last operation of a traced module must be its output")
    return tuple(
        Step(
            run=run,
            inputs=tuple(source.name for source in sources),
            output=target.name,
            slot=slot,
            drops=tuple(dict.fromkeys(s.name for s in sources if last_use[s] == index)),
        )
        for index, (run, sources, target, slot) in enumerate(drafts)
    )


def _kind(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    module = modules.get(str(node.target)) if node.op == "call_module" else None
    if isinstance(module, nn.Conv2d):
        return "conv"
    if isinstance(module, nn.BatchNorm2d):
        return "norm"
    if isinstance(module, nn.ReLU) or (node.op == "call_function" and node.target in (F.relu, torch.relu)):
        return "relu"
    if isinstance(module, nn.MaxPool2d):
        return "pool"
    return ""


def _chain(node: fx.Node, modules: dict[str, nn.Module]) -> list[fx.Node]:
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


def _block(chain: list[fx.Node], modules: dict[str, nn.Module]) -> Run:
    facts: dict[str, Any] = {}
    names: dict[str, str] = {}
    for node in chain:
        name, module = str(node.target), modules.get(str(node.target))
        match module:
            case nn.Conv2d():
                facts |= _convolution_facts(name, module)
                names |= {"weight": f"{name}.weight"} | ({} if module.bias is None else {"bias": f"{name}.bias"})
            case nn.BatchNorm2d():
                facts |= {"norm": True, "eps": module.eps, "momentum": module.momentum}
                names |= {"gamma": f"{name}.weight", "beta": f"{name}.bias"}
                names |= {statistic: f"{name}.{statistic}" for statistic in ("running_mean", "running_var")}
            case nn.MaxPool2d():
                if (module.kernel_size, module.stride, module.padding, module.ceil_mode) != (2, 2, 0, False):
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


def _single(node: fx.Node, module: nn.Module | None) -> Run:
    name = str(node.target)
    match module:
        case nn.AdaptiveAvgPool2d(output_size=(1 | (1, 1))):
            return lambda inputs, tensors, training: inputs[0].mean((2, 3), keepdim=True)
        case nn.Flatten(start_dim=1, end_dim=-1):
            return lambda inputs, tensors, training: inputs[0].flatten(1, -2)
        case nn.Linear():
            return _linear(name, module.bias is not None)
        case nn.Identity():
            return lambda inputs, tensors, training: inputs[0]
        case nn.ReLU() | nn.Sigmoid() | nn.Tanh() | nn.GELU() | nn.SiLU():
            return lambda inputs, tensors, training: module(inputs[0])
    functions: dict[Any, Callable[..., Tensor]] = {
        operator.add: torch.add,
        operator.mul: torch.mul,
        torch.add: torch.add,
        torch.mul: torch.mul,
    }
    if node.op == "call_function" and node.target in functions and len(node.args) == 2 and not node.kwargs:
        return _binary(functions[node.target], node.args)
    if node.op == "call_function" and node.target in (F.relu, torch.relu, torch.sigmoid):
        function: Any = node.target
        return lambda inputs, tensors, training: function(inputs[0])
    if node.op == "call_function" and node.target is blending.bound_residual:
        arguments: dict[str, Any] = dict(zip(("x", "delta", "max_ratio"), node.args, strict=False)) | node.kwargs
        max_ratio = arguments.get("max_ratio", 1.0)
        return lambda inputs, tensors, training: bound_residual(inputs[0], inputs[1], max_ratio)
    what = type(module).__name__ if module is not None else getattr(node.target, "__name__", name)
    raise EngineError(f"layer {name} ({what}) cannot be fused")


def _binary(function: Callable[..., Tensor], args: tuple[Any, ...]) -> Run:
    def run(inputs: list[Tensor], tensors: Tensors, training: bool) -> Tensor:
        nodes = iter(inputs if len(inputs) == sum(isinstance(a, fx.Node) for a in args) else inputs * 2)
        return function(*(next(nodes) if isinstance(a, fx.Node) else a for a in args))

    return run


def _linear(name: str, has_bias: bool) -> Run:
    def run(inputs: list[Tensor], tensors: Tensors, training: bool) -> Tensor:
        (x,), weight = inputs, tensors[f"{name}.weight"]
        x = x.expand(weight.shape[0], *x.shape[1:])
        if not has_bias:
            return torch.bmm(weight, x)
        return torch.baddbmm(tensors[f"{name}.bias"].unsqueeze(-1), weight, x)

    return run

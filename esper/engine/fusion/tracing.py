"""A module's forward pass for R networks at once, derived by tracing the module itself.

The plain module stays the only definition of an architecture. Tracing turns it into a list of steps; a layout's rules
say how each layer runs for all networks, and which chains of layers run as one. What no rule covers is refused with its
name, and the population then trains its members one after another.
"""

import functools
import operator
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from esper.engine.fusion.fusable import check_plain, trace
from esper.errors import EngineError
from esper.kasmina.slot import SeedSlot

Tensors = Mapping[str, Tensor]
Values = dict[str, Tensor]
Captured = dict[str, Values]
LayerFn = Callable[[list[Tensor], Tensors, bool], Tensor]
Modules = Mapping[str, nn.Module]

_UNARY_LAYERS: dict[type, Callable[..., Tensor]] = {
    nn.ReLU: torch.relu,
    nn.Sigmoid: torch.sigmoid,
    nn.Tanh: torch.tanh,
    nn.SiLU: F.silu,
}
_UNARY: dict[Any, Callable[..., Tensor]] = {
    F.relu: torch.relu,
    torch.relu: torch.relu,
    F.gelu: F.gelu,
    F.silu: F.silu,
    torch.sigmoid: torch.sigmoid,
    torch.tanh: torch.tanh,
}
_BINARY: dict[Any, Callable[..., Tensor]] = {
    operator.add: torch.add,
    operator.mul: torch.mul,
    torch.add: torch.add,
    torch.mul: torch.mul,
}


class Layout(Protocol):
    """How activations of many networks lie in memory, and how layers run on them."""

    leaves: tuple[type[nn.Module], ...]

    def to_layout(self, x: Tensor) -> Tensor:
        """See `Engine.to_layout`."""
        ...

    def fusable_chain(self, node: fx.Node, modules: Modules) -> list[fx.Node]:
        """The nodes from this one on that run as one; at least the node itself."""
        ...

    def lower(self, chain: list[fx.Node], modules: Modules) -> LayerFn | None:
        """How they run, or None where this layout has no rule of its own. Raises EngineError, naming the layer."""
        ...

    def gate(self, features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """`BlendGate` for rows of features: sigmoid of its linear layer, of as many dimensions as the features."""
        ...

    def losses(self, outputs: Tensor, y: Tensor, loss: str) -> tuple[Tensor, Tensor]:
        """Mean loss [M], and what scores are made of: hits [M], or of a regression squared errors [M, K]."""
        ...


@dataclass(frozen=True, slots=True)
class Op:
    """One operation: reads values by name, writes one; `drops` are values nobody reads later."""

    run: LayerFn | None
    inputs: tuple[str, ...]
    output: str
    slot: str | None
    drops: tuple[str, ...]


class Program:
    """Steps of one module. Raises EngineError for a layer that cannot be fused."""

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        check_plain(module)
        graph, modules = trace(module, layout.leaves)
        _check_inplace(graph, modules)
        self.steps = _compile(graph, modules, layout)
        called = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
        self.calls = {  # of each count of batches, how often a pass adds to it
            name: count
            for name, _ in module.named_buffers()
            if name.endswith("num_batches_tracked") and (count := called[name.rpartition(".")[0]])
        }
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


def _check_inplace(graph: fx.Graph, modules: Modules) -> None:
    """Raises EngineError where a layer writes into memory that is read elsewhere; otherwise it may as well not."""
    for node in graph.nodes:
        if not _is_inplace(node, modules):
            continue
        source = node.args[0]
        while isinstance(source, fx.Node):
            if source.op == "placeholder" or len(source.users) > 1:
                raise EngineError(f"layer {_called(node)}: works in place on what is read elsewhere, too")
            # These may hand on the memory they were given; others make their own.
            source = source.args[0] if _is_view(source, modules) or _is_inplace(source, modules) else None


def _is_inplace(node: fx.Node, modules: Modules) -> bool:
    if node.op == "call_module":
        return bool(getattr(modules[str(node.target)], "inplace", False))
    return node.op == "call_function" and bool(node.kwargs.get("inplace", False))


def _is_view(node: fx.Node, modules: Modules) -> bool:
    return node.op == "call_module" and type(modules[str(node.target)]) in (nn.Identity, nn.Flatten, SeedSlot)


def _compile(graph: fx.Graph, modules: Modules, layout: Layout) -> tuple[Op, ...]:
    drafts: list[tuple[LayerFn | None, list[fx.Node], fx.Node, str | None]] = []
    merged: set[fx.Node] = set()
    result: fx.Node | None = None
    for node in graph.nodes:
        if node in merged or node.op == "placeholder":
            continue
        if node.op == "output":
            if not isinstance(node.args[0], fx.Node):
                raise EngineError(f"the network gives a {type(node.args[0]).__name__}; expected one tensor")
            result = node.args[0]
            continue
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if module is not None and (len(node.args) != 1 or node.kwargs):
            raise EngineError(f"layer {_called(node)}: is called with more than its input")
        if type(module) is SeedSlot:
            drafts.append((None, list(node.all_input_nodes), node, module.slot_id))
            continue
        chain = layout.fusable_chain(node, modules)
        merged.update(chain)
        run = layout.lower(chain, modules) or _elementwise(node, module)
        drafts.append((run, list(node.all_input_nodes), chain[-1], None))
    last_use = {source: index for index, draft in enumerate(drafts) for source in draft[1]}
    if result is None or not drafts or result is not drafts[-1][2]:
        raise EngineError("the last operation of a traced module must be its output")
    return tuple(
        Op(
            run=run,
            inputs=tuple(source.name for source in sources),
            output=target.name,
            slot=slot,
            drops=tuple(dict.fromkeys(s.name for s in sources if last_use[s] == index)),
        )
        for index, (run, sources, target, slot) in enumerate(drafts)
    )


def _elementwise(node: fx.Node, module: nn.Module | None) -> LayerFn:
    """What is the same in every layout."""
    if type(module) is nn.Identity:
        return lambda inputs, tensors, training: inputs[0]
    if type(module) is nn.GELU:
        return _unary(functools.partial(F.gelu, approximate=module.approximate))
    if type(module) in _UNARY_LAYERS:
        return _unary(_UNARY_LAYERS[type(module)])
    if node.op == "call_function" and node.target in _BINARY and len(node.args) == 2 and not node.kwargs:
        return _binary(_BINARY[node.target], node.args)
    if node.op == "call_function" and node.target in _UNARY and len(node.args) == 1:
        settings = {key: value for key, value in node.kwargs.items() if key != "inplace"}
        if node.target is F.gelu or not settings:
            return _unary(functools.partial(_UNARY[node.target], **settings))
    if node.op == "get_attr":
        raise EngineError(f"{node.target} is read outside of a layer, and cannot be fused")
    what = "" if module is None else f" ({type(module).__name__})"
    raise EngineError(f"layer {_called(node)}{what} cannot be fused")


def _called(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def _unary(function: Callable[..., Tensor]) -> LayerFn:
    return lambda inputs, tensors, training: function(inputs[0])


def _binary(function: Callable[..., Tensor], args: tuple[Any, ...]) -> LayerFn:
    def run(inputs: list[Tensor], tensors: Tensors, training: bool) -> Tensor:
        nodes = iter(inputs if len(inputs) == sum(isinstance(a, fx.Node) for a in args) else inputs * 2)
        return function(*(next(nodes) if isinstance(a, fx.Node) else a for a in args))

    return run


def bound_arguments(node: fx.Node, by_token: bool) -> float:
    """max_ratio of a call of `esper.kasmina.blending.bound_residual`. Raises EngineError where it goes otherwise."""
    arguments = dict(zip(("x", "delta", "max_ratio", "by_token"), node.args, strict=False)) | node.kwargs
    if bool(arguments.get("by_token", False)) is not by_token:
        raise EngineError(f"{node}: bounds {'samples' if by_token else 'tokens'}, which features here are not")
    return float(arguments.get("max_ratio", 1.0))  # type: ignore[arg-type]

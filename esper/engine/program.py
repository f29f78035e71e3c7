"""A module's forward pass for R networks at once, derived by tracing the module itself.

The plain module stays the only definition of an architecture. Tracing turns it into a list of steps; a layout's rules
say how each layer runs for all networks, and which chains of layers run as one. What no rule covers is refused with its
name, and the population then trains its members one after another.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from esper.engine.engine import Captured, Values
from esper.errors import EngineError
from esper.kasmina.probe import evaluating
from esper.kasmina.slot import SeedSlot

Tensors = Mapping[str, Tensor]
Run = Callable[[list[Tensor], Tensors, bool], Tensor]
Modules = Mapping[str, nn.Module]


class Layout(Protocol):
    """How activations of many networks lie in memory, and how layers run on them."""

    leaves: tuple[type[nn.Module], ...]

    def lay(self, x: Tensor) -> Tensor:
        """See `Engine.lay`."""
        ...

    def chain(self, node: fx.Node, modules: Modules) -> list[fx.Node]:
        """The nodes from this one on that run as one; at least the node itself."""
        ...

    def rule(self, chain: list[fx.Node], modules: Modules) -> Run | None:
        """How they run, or None where this layout has no rule of its own. Raises EngineError, naming the layer."""
        ...

    def gate(self, features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """`BlendGate` for rows of features: sigmoid of its linear layer, of as many dimensions as the features."""
        ...

    def losses(self, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy [M] in nats, and how many targets are hit [M]."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """One operation: reads values by name, writes one; `drops` are values nobody reads later."""

    run: Run | None
    inputs: tuple[str, ...]
    output: str
    slot: str | None
    drops: tuple[str, ...]


class _Tracer(fx.Tracer):
    def __init__(self, leaves: tuple[type[nn.Module], ...]) -> None:
        super().__init__()
        self.leaves: tuple[type[nn.Module], ...] = (SeedSlot, *leaves)

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return isinstance(module, self.leaves) or super().is_leaf_module(module, qualified_name)


class Program:
    """Steps of one module. Raises EngineError for a layer that cannot be fused."""

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        graph = _trace(module, layout.leaves)
        self.steps = _compile(graph, dict(module.named_modules()), layout)
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


def _trace(module: nn.Module, leaves: tuple[type[nn.Module], ...]) -> fx.Graph:
    """One graph for training and evaluation. Raises EngineError where Python code makes them differ, or draws."""
    name = type(module).__name__
    try:
        with evaluating(module), torch.random.fork_rng([]):
            before = torch.get_rng_state()
            evaluated = _Tracer(leaves).trace(module)
            trained = _Tracer(leaves).trace(module.train())
            draws = not torch.equal(before, torch.get_rng_state())
    except (fx.proxy.TraceError, TypeError) as error:
        raise EngineError(f"{name}.forward cannot be traced: {error}") from error
    if draws or evaluated.python_code("self").src != trained.python_code("self").src:
        raise EngineError(f"{name}.forward draws, or does otherwise in training, and cannot be fused")
    return trained


def _compile(graph: fx.Graph, modules: Modules, layout: Layout) -> tuple[Step, ...]:
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
        chain = layout.chain(node, modules)
        merged.update(chain)
        run = layout.rule(chain, modules) or _elementwise(node, module)
        drafts.append((run, list(node.all_input_nodes), chain[-1], None))
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


def _elementwise(node: fx.Node, module: nn.Module | None) -> Run:
    """What is the same in every layout."""
    name = str(node.target)
    match module:
        case nn.Identity():
            return lambda inputs, tensors, training: inputs[0]
        case nn.ReLU() | nn.Sigmoid() | nn.Tanh() | nn.GELU() | nn.SiLU():
            return lambda inputs, tensors, training: module(inputs[0])
    binary: dict[Any, Callable[..., Tensor]] = {
        operator.add: torch.add,
        operator.mul: torch.mul,
        torch.add: torch.add,
        torch.mul: torch.mul,
    }
    if node.op == "call_function" and node.target in binary and len(node.args) == 2 and not node.kwargs:
        return _binary(binary[node.target], node.args)
    if node.op == "call_function" and node.target in (F.relu, F.gelu, torch.relu, torch.sigmoid, torch.tanh):
        function: Any = node.target
        return lambda inputs, tensors, training: function(inputs[0], **node.kwargs)
    what = type(module).__name__ if module is not None else getattr(node.target, "__name__", name)
    raise EngineError(f"layer {name} ({what}) cannot be fused")


def _binary(function: Callable[..., Tensor], args: tuple[Any, ...]) -> Run:
    def run(inputs: list[Tensor], tensors: Tensors, training: bool) -> Tensor:
        nodes = iter(inputs if len(inputs) == sum(isinstance(a, fx.Node) for a in args) else inputs * 2)
        return function(*(next(nodes) if isinstance(a, fx.Node) else a for a in args))

    return run


def bound_arguments(node: fx.Node) -> float:
    """max_ratio of a call of `esper.kasmina.blending.bound_residual`."""
    arguments = dict(zip(("x", "delta", "max_ratio"), node.args, strict=False)) | node.kwargs
    return float(arguments.get("max_ratio", 1.0))  # type: ignore[arg-type]

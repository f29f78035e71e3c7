"""What a module must not have in order to be fused: all that a trace of its forward pass would lose.

Every check raises EngineError, naming the layer; the population then trains its members one after another, where each
of these things works as it does in plain PyTorch.
"""

import itertools
import operator
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
import torch
from torch import fx, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.nn.utils.parametrize import is_parametrized

from esper.errors import ConfigError, EngineError, first_line
from esper.kasmina.copying import HOOKS, copy_network, named_hooks
from esper.kasmina.host import MorphogeneticModel
from esper.kasmina.python_state import (
    KEEP_APART,
    OF_MODULES,
    differing,
    fingerprint,
    fingerprints,
    shared_fingerprints,
)
from esper.kasmina.seeding import undisturbed_streams
from esper.kasmina.slot import SeedSlot


def check_plain(module: nn.Module) -> None:
    """Nothing is on the module that runs beside its forward pass or changes it: hooks, parametrisations, ties."""
    if _has_any_global_hook():
        raise EngineError("hooks on all modules (torch.nn.modules.module) would be lost in fusing")
    root = type(module).__name__
    for name, _ in named_hooks(module):
        raise EngineError(f"layer {name or root}: has a hook")
    for path, part in _layers(module):
        what = f"layer {path or root}"
        if is_parametrized(part):
            raise EngineError(f"{what}: its weights are parametrised")
        if type(part).train is not nn.Module.train or type(part).eval is not nn.Module.eval:
            raise EngineError(f"{what}: has a train() or eval() of its own")
        if shadowed := [k for k in vars(part) if k not in OF_MODULES and callable(getattr(type(part), k, None))]:
            raise EngineError(f"{what}: its {shadowed[0]} is not that of {type(part).__name__}")
    owners: dict[int, str] = {}
    for path, part in _layers(module):
        for leaf, tensor in (*part._parameters.items(), *part._buffers.items()):
            name = f"{path}.{leaf}"
            if tensor is None:
                continue
            if owners.setdefault(id(tensor), name) != name:
                raise EngineError(f"{name} and {owners[id(tensor)]} are one tensor, tied")
            if tensor.is_floating_point() and tensor.dtype.itemsize < 4:
                raise EngineError(f"{name} is {tensor.dtype}: such networks train one by one")


def check_hosts(models: Sequence[MorphogeneticModel]) -> None:
    """One program runs all hosts: they have the same layers with the same settings, and train the same weights."""
    modules = [model.host for model in models]
    for module in modules:
        if still := [path for path, part in _layers(module) if module.training and not part.training]:
            raise EngineError(f"layer {still[0]}: stays in evaluation mode in training")
    for module in modules:
        check_plain(module)
    first = _facts(modules[0])
    for member, module in enumerate(modules[1:], start=1):
        facts = _facts(module)
        for path in {**first, **facts}:
            one, other = first.get(path, {}), facts.get(path, {})
            if unlike := [what for what in {**one, **other} if one.get(what) != other.get(what)]:
                layer = f"layer {path or type(module).__name__} of member {member}"
                raise EngineError(f"{layer} is not as in member 0 ({unlike[0]})")


def trace(module: nn.Module, leaves: tuple[type[nn.Module], ...]) -> tuple[fx.Graph, dict[str, nn.Module]]:
    """One graph for training and evaluation, and the layers that it names; the module itself is not run.

    Raises EngineError where Python code makes the two differ, or where a forward pass does what no graph shows: draws,
    keeps something in Python, writes buffers, changes the gradient mode, has a backward pass of its own.
    """
    name = type(module).__name__
    try:
        attempt = copy_network(module)
    except ConfigError as error:
        raise EngineError(str(error)) from error
    before, shared, held = fingerprints(attempt), shared_fingerprints(attempt), _tensors(attempt)
    with undisturbed_streams(), _no_own_backward(name):
        drawn = _streams()
        graphs = [_traced(attempt, training, leaves) for training in (False, True)]
        is_drawing = drawn != _streams()
    if written := differing(shared, shared_fingerprints(attempt)):
        raise EngineError(f"{name}.forward changes {written[0]}, and cannot be fused; {KEEP_APART}")
    changed = differing(before, fingerprints(attempt))
    changed += [path for path, tensor in _tensors(attempt).items() if tensor is not held.get(path)]
    if changed:
        raise EngineError(f"{name}.forward changes {changed[0].removeprefix('.')}, and cannot be fused")
    if is_drawing:
        raise EngineError(f"{name}.forward draws random numbers, and cannot be fused")
    evaluated, trained = graphs
    if evaluated.python_code("self").src != trained.python_code("self").src:
        raise EngineError(f"{name}.forward does otherwise in training than in evaluation, and cannot be fused")
    if len([node for node in trained.nodes if node.op == "placeholder"]) != 1:
        raise EngineError(f"{name}.forward takes more than one input, and cannot be fused")
    return trained, dict(attempt.named_modules())


def _traced(module: nn.Module, training: bool, leaves: tuple[type[nn.Module], ...]) -> fx.Graph:
    module.train(training)
    name, tracer = type(module).__name__, _Tracer(leaves)
    try:
        graph = tracer.trace(module)
    except EngineError:
        raise
    except Exception as error:  # code of any make runs here
        raise EngineError(f"{name}.forward cannot be traced: {first_line(error)}") from error
    if len(tracer.modes) > 1:
        raise EngineError(f"{name}.forward switches gradients or autocast on or off, and cannot be fused")
    return graph


def _tensors(module: nn.Module) -> dict[str, object]:
    return {
        f"{path}.{leaf}": tensor
        for path, part in module.named_modules()
        for leaf, tensor in (*part._parameters.items(), *part._buffers.items())
    }


class HostWatch:
    """Notices what was put on modules since fusing them was allowed, and would be lost: hooks, layers, attributes."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        layers = [part for module in modules for _, part in _layers(module) if not isinstance(part, SeedSlot)]
        self._hooks = [getattr(part, kind) for part in layers for kind in HOOKS]
        self._layers = layers
        self._classes = [type(part) for part in layers]
        self._parameters = [parameter for module in modules for parameter in module.parameters()]
        self._dicts = [each for p in layers for each in (vars(p), p._parameters, p._buffers, p._modules)]
        self._held = [{k: v for k, v in each.items() if k != "training"} for each in self._dicts]
        self._values = self._all_values()

    def has_changed(self) -> bool:
        """Whether anything is other than it was."""
        return (
            _has_any_global_hook()
            or any(self._hooks)
            or any(p._backward_hooks or p._post_accumulate_grad_hooks for p in self._parameters)
            or list(map(type, self._layers)) != self._classes
            or self._holds_others()
        )

    def _all_values(self) -> list[object]:
        return list(itertools.chain.from_iterable(map(dict.values, self._dicts)))

    def _holds_others(self) -> bool:
        values = self._all_values()  # every epoch asks, of every member: this is far quicker than name by name
        if len(values) == len(self._values) and all(map(operator.is_, values, self._values)):
            return False
        for now, was in zip(self._dicts, self._held, strict=True):
            if len(now) - ("training" in now) != len(was) or any(now.get(k) is not v for k, v in was.items()):
                return True
        self._values = values  # the mode of a layer may change
        return False


class _Proxy(fx.Proxy):
    """Refuses what works in place, which fx would take for an operation that makes something new."""


def _refuse_inplace(proxy: _Proxy, other: object) -> NoReturn:
    raise EngineError(f"an operation on {proxy.node} works in place (x += ...), which tracing would lose")


for _operator in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"):
    setattr(_Proxy, f"__i{_operator}__", _refuse_inplace)


class _Tracer(fx.Tracer):
    """Notes the modes that operations run under; reads of buffers are operations too."""

    proxy_buffer_attributes = True

    def __init__(self, leaves: tuple[type[nn.Module], ...]) -> None:
        super().__init__()
        self.leaves: tuple[type[nn.Module], ...] = (SeedSlot, *leaves)
        self.modes: set[tuple[bool, ...]] = set()

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return type(module) in self.leaves or super().is_leaf_module(module, qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        devices = ("cpu", "cuda")
        self.modes.add(
            (
                torch.is_grad_enabled(),
                torch.is_inference_mode_enabled(),
                *(torch.is_autocast_enabled(device) for device in devices),
            )
        )
        return super().create_node(*args, **kwargs)


@contextmanager
def _no_own_backward(name: str) -> Iterator[None]:
    """Inside, a `torch.autograd.Function` is refused: tracing sees its forward pass alone."""

    def refuse(cls: type, *args: object, **kwargs: object) -> NoReturn:
        raise EngineError(f"{name}.forward calls {cls.__name__}, whose backward pass tracing cannot see")

    apply = vars(torch.autograd.Function)["apply"]
    torch.autograd.Function.apply = classmethod(refuse)  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        torch.autograd.Function.apply = apply  # type: ignore[method-assign]


def _streams() -> tuple[object, ...]:
    of_numpy: Any = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), of_numpy[1].tobytes(), of_numpy[2:], random.getstate()


def _layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every layer but those inside slots, which are fused by themselves."""
    inside: tuple[str, ...] = ()
    for path, part in module.named_modules():
        if not path.startswith(inside):
            yield path, part
        if isinstance(part, SeedSlot):
            inside += (f"{path}.",)


def _facts(module: nn.Module) -> dict[str, dict[str, object]]:
    """By layer: its class and settings, and what of it is trained."""
    facts: dict[str, dict[str, object]] = {}
    named = (*module.named_modules(), *module.named_parameters(), *module.named_buffers())
    names = {id(part): name for name, part in named}
    for path, part in _layers(module):
        own = {k: v for k, v in vars(part).items() if k not in OF_MODULES and not isinstance(part, SeedSlot)}
        trained = {f"{k}.requires_grad": p.requires_grad for k, p in part._parameters.items() if p is not None}
        settings = {name: fingerprint(value, names=names) for name, value in own.items()}
        facts[path] = {"class": type(part), **trained, **settings}
    return facts

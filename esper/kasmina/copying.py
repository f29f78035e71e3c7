"""Copies of networks that train as the original would."""

import copy
import gc
import itertools
import weakref
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from esper.errors import ConfigError, first_line

_LOOKED_AT = 100_000  # objects, in search of the original
HOOKS = (
    "_forward_pre_hooks",
    "_forward_hooks",
    "_backward_pre_hooks",
    "_backward_hooks",
)


Network = TypeVar("Network", bound=nn.Module)


def copy_network(module: Network) -> Network:
    """A copy with weights of its own; hooks of layers and of parameters come along.

    Tensors that a layer derives from its parameters before each pass (pruning, older weight and spectral norms) are
    copied by value. Raises: ConfigError where a copy would not be the same network: a function or weak reference in it
    would still reach the original, parameters share memory without being one, or are not what `parameters()` gives, or
    something in it cannot be copied.
    """
    _check_parameters(module)
    _check_memory(module)
    copied: dict[int, Any] = {id(tensor): tensor.detach().clone() for tensor in _derived_tensors(module)}
    try:
        duplicate = copy.deepcopy(module, copied)
        for own, twin in zip(module.parameters(), duplicate.parameters(), strict=True):
            for hook in (own._backward_hooks or {}).values():
                twin.register_hook(copy.deepcopy(hook, copied))
            for hook in (own._post_accumulate_grad_hooks or {}).values():
                twin.register_post_accumulate_grad_hook(copy.deepcopy(hook, copied))
    except Exception as error:  # whatever the parts of a network of any make may raise
        raise ConfigError(f"{type(module).__name__} cannot be copied: {first_line(error)}") from error
    _check_twin(module, duplicate)
    _check_apart(module, duplicate)
    return duplicate


def _check_twin(module: nn.Module, duplicate: nn.Module) -> None:
    """Raises ConfigError where copying left something out, or out of the copy."""
    for (path, one), (other_path, other) in zip(module.named_modules(), duplicate.named_modules(), strict=False):
        if path != other_path or one is other or not _is_twin(one, other):
            name = path or type(module).__name__
            raise ConfigError(
                f"{name}: a copy of it is not as it is, as {type(one).__name__} copies itself by a rule of its own; "
                "let its __deepcopy__ or __getstate__ leave nothing out"
            )


def _is_twin(one: nn.Module, other: nn.Module) -> bool:
    has_all = vars(one).keys() == vars(other).keys()
    if isinstance(one, fx.GraphModule) and isinstance(other, fx.GraphModule):  # each is of a class of its own
        hooks = [[len(getattr(each, kind)) for kind in HOOKS] for each in (one, other)]
        return has_all and hooks[0] == hooks[1] and one.code == other.code
    return type(one) is type(other) and (has_all or type(one).__module__.startswith("torch."))


def _check_apart(module: nn.Module, duplicate: nn.Module) -> None:
    """Raises ConfigError, naming the layer, where something in the copy still holds a part of the original.

    Functions and weak references are never copied, and what they have closed over is what it was.
    """
    parts = {id(part) for part in (*module.modules(), *module.parameters(), *module.buffers())}
    seen = parts | {id(part) for part in duplicate.modules()}
    for path, part in (*duplicate.named_modules(), *named_hooks(duplicate)):
        reached: list[Any] = [part.__dict__ if isinstance(part, nn.Module) else part]
        while reached:
            for held in _referents(reached.pop()):
                if id(held) in parts:
                    raise ConfigError(
                        f"{path or type(module).__name__}: a function or hook in it holds on to the network, and "
                        "a copy's would still reach the original; let it use what it is called with, or be a method"
                    )
                if id(held) not in seen and len(seen) < _LOOKED_AT:
                    seen.add(id(held))
                    reached.append(held)


def _referents(value: Any) -> list[Any]:
    """What is held, but for what all share: classes, modules, and the globals that functions stand in."""
    if isinstance(value, weakref.ref):
        return [value()]
    if isinstance(value, FunctionType):
        cells = (cell for cell in value.__closure__ or () if cell is not None)
        return [*cells, value.__defaults__, value.__kwdefaults__, vars(value)]
    shared = (type, ModuleType, CodeType, str, bytes, int, float)
    return [held for held in gc.get_referents(value) if not isinstance(held, shared)]


def check_graph(output: Any, module: nn.Module) -> None:
    """Raises ConfigError where a copy's output depends on parameters of the original, as through a global name."""
    own = {id(parameter): name for name, parameter in module.named_parameters()}
    nodes, seen = [getattr(output, "grad_fn", None)], set()
    while nodes:
        node: Any = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if name := own.get(id(getattr(node, "variable", None))):
            raise ConfigError(f"{name}: a copy of the network still uses it, as through a global name")
        nodes += [before for before, _ in node.next_functions]


def _check_parameters(module: nn.Module) -> None:
    """Raises ConfigError where the network gives others than it has: an optimizer would train those alone."""
    layers = list(module.modules())
    held = {id(p) for layer in layers for p in layer._parameters.values() if p is not None}
    if held != {id(p) for p in module.parameters()} or held != {id(p) for _, p in module.named_parameters()}:
        raise ConfigError(
            f"{type(module).__name__}: parameters() gives others than its layers have; freeze those instead"
        )


def _check_memory(module: nn.Module) -> None:
    """Raises ConfigError where two tensors of the network overlap without being one: a copy would part them."""
    spans: dict[int, list[tuple[int, int, str]]] = {}
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if nn.parameter.is_lazy(tensor) or tensor.layout is not torch.strided or tensor.is_meta or not tensor.numel():
            continue
        start = tensor.data_ptr()
        reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        span = (start, start + (reach + 1) * tensor.element_size(), name)
        spans.setdefault(tensor.untyped_storage().data_ptr(), []).append(span)
    for held in spans.values():
        held.sort()
        for (_, end, first), (start, _, second) in itertools.pairwise(held):
            if start < end:
                raise ConfigError(f"{first} and {second} share memory: make them one parameter, or two")


def _derived_tensors(module: nn.Module) -> Iterator[Tensor]:
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                yield value


def named_hooks(module: nn.Module) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every hook of the network's layers and parameters, with the name of what it is on."""
    for name, part in module.named_modules():
        for kind in HOOKS:
            for hook in getattr(part, kind).values():
                yield name, hook
    for name, parameter in module.named_parameters():
        for hooks in (parameter._backward_hooks, parameter._post_accumulate_grad_hooks):
            for hook in (hooks or {}).values():
                yield name, hook

"""Copies of networks that train as the original would."""

import copy
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from esper.errors import ConfigError, first_line

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
    copied by value. Raises: ConfigError where a copy would not be the same network: a hook that holds on to the
    network itself, parameters that share memory without being one, something in it that cannot be copied.
    """
    _check_hooks(module)
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
    return duplicate


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


def _check_hooks(module: nn.Module) -> None:
    parts = {id(part) for part in module.modules()} | {id(tensor) for tensor in module.parameters()}
    for name, hook in named_hooks(module):
        if any(id(held) in parts for held in _held_by(hook)):
            raise ConfigError(
                f"{name or type(module).__name__}: a hook holds on to the network itself, and a copy's hook would "
                "still reach the original; let it use what it is called with, or be a method of its layer"
            )


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


def _held_by(hook: Callable[..., Any]) -> Iterator[Any]:
    """What a plain function has closed over; a method or an object is copied with the network, and all it holds."""
    if isinstance(hook, functools.partial):
        yield from (*_held_by(hook.func), *hook.args, *hook.keywords.values())
        return
    for cell in getattr(hook, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue

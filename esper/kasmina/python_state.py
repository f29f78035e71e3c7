"""What a network keeps in Python beside its tensors: attributes of its layers, and their extra state.

Plain PyTorch carries such state along by itself; whoever copies, resumes or puts back a network has to do so by name.
"""

import copy
import functools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence, Set
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

EXTRA_STATE = "extra_state()"  # stands where an attribute's name would
PLAIN = (type(None), bool, int, float, complex, str, bytes)
CONTAINERS = (list, tuple, set, frozenset, dict, deque)
_INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
KEPT_DTYPES = {*_INTEGERS, torch.float16, torch.bfloat16, torch.float32, torch.float64}  # that a checkpoint can hold
OF_MODULES = frozenset(vars(nn.Module()))  # attributes that every module has
_BY_IDENTITY = (BuiltinFunctionType, FunctionType, MethodType, ModuleType, type, nn.Module)
_DEPTH = 20


@functools.cache
def _is_library(module: str) -> bool:
    return module.startswith(("torch.", "esper."))


def is_library(kind: type) -> bool:
    """Whether it is a layer of torch or esper, which keeps nothing in Python as it runs."""
    return _is_library(kind.__module__)


def _owners(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Layers that may keep something: all but those of torch and esper, which are known not to."""
    for path, part in module.named_modules():
        is_compiled = type(part).__module__.startswith("torch._dynamo")
        if not is_library(type(part)) or ("forward" in vars(part) and not is_compiled):
            yield path, part


def has_own_code(module: nn.Module) -> bool:
    """Whether any of its layers is of another make than torch's or esper's."""
    return any(True for _ in _owners(module))


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for path, part in _owners(module):
        prefix = f"{path}." if path else ""
        for name, value in vars(part).items():
            if name not in OF_MODULES and not isinstance(value, nn.Module):
                yield f"{prefix}{name}", value
        if type(part).get_extra_state is not nn.Module.get_extra_state:
            yield f"{prefix}{EXTRA_STATE}", part.get_extra_state()


def read_state(module: nn.Module) -> dict[str, Any]:
    """Copies of every value that can be kept (plain values, tensors, arrays, and containers of them), by path.

    What holds the network's own parameters or buffers is another name for them, and no state.
    """
    own = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
    return {path: _copied(value) for path, value in _attributes(module) if _is_kept(value, own)}


def changes(module: nn.Module, since: Mapping[str, Any]) -> dict[str, Any]:
    """What of `read_state` is not as it was; copies."""
    now = read_state(module)
    return {path: value for path, value in now.items() if path not in since or not _equal(value, since[path])}


def write_state(module: nn.Module, state: Mapping[str, Any], initial: Mapping[str, Any]) -> None:
    """Give the network this state; what it does not name becomes as it is in `initial`."""
    parts = dict(module.named_modules())
    for path in read_state(module).keys() - initial.keys() - state.keys():  # it has come up since
        owner, _, name = path.rpartition(".")
        if name != EXTRA_STATE:
            delattr(parts[owner], name)
    for path, value in {**initial, **state}.items():
        owner, _, name = path.rpartition(".")
        if owner not in parts:
            continue  # a seed that is gone
        if name == EXTRA_STATE:
            parts[owner].set_extra_state(_copied(value))
        elif not _equal(getattr(parts[owner], name, None), value):
            setattr(parts[owner], name, _copied(value))


def fingerprints(module: nn.Module) -> dict[str, Any]:
    """Of every attribute, kept or not: equal as long as nothing in it has changed."""
    return {path: fingerprint(value) for path, value in _attributes(module)}


def unkept(module: nn.Module, paths: Sequence[str]) -> list[str]:
    """Those of these attributes whose value cannot be kept, each with what it is."""
    values, kept = dict(_attributes(module)), read_state(module)
    return [f"{path} ({type(values[path]).__name__})" for path in paths if path in values and path not in kept]


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Paths whose fingerprints are not the same."""
    return [path for path in {**before, **after} if path not in before or before[path] != after.get(path)]


def _is_kept(value: Any, own: Set[int], depth: int = _DEPTH) -> bool:
    if type(value) in PLAIN or (isinstance(value, np.generic) and type(value.item()) in PLAIN):
        return True
    if type(value) is Tensor:
        is_dense = value.layout is torch.strided and not value.is_meta
        return id(value) not in own and is_dense and value.dtype in KEPT_DTYPES
    if type(value) is np.ndarray:
        return value.dtype.kind in "biuf" and value.dtype.itemsize <= 8 and value.dtype.isnative
    if type(value) is dict:
        return depth > 0 and all(_is_kept(each, own, depth - 1) for pair in value.items() for each in pair)
    return type(value) in CONTAINERS and depth > 0 and all(_is_kept(each, own, depth - 1) for each in value)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if type(value) is dict:
        return {_copied(key): _copied(each) for key, each in value.items()}
    if type(value) is deque:
        return deque((_copied(each) for each in value), value.maxlen)
    return type(value)(_copied(each) for each in value) if type(value) in CONTAINERS else copy.copy(value)


def _equal(first: Any, second: Any) -> bool:
    return first is second or (type(first) is type(second) and fingerprint(first) == fingerprint(second))


def fingerprint(value: Any, depth: int = _DEPTH, by_class: bool = False) -> Any:
    """Comparable by ==, NaN included; of an object, all that its reduction for copying names.

    by_class: modules of one class are the same, as where the settings of two networks are compared.
    """
    if by_class and isinstance(value, nn.Module):
        return type(value)
    if isinstance(value, float | complex):
        return repr(value)
    if type(value) in PLAIN or depth == 0:
        return value if type(value) in PLAIN else id(value)
    if isinstance(value, nn.Parameter):
        return id(value)
    if isinstance(value, Tensor):
        if value.is_meta or value.layout is not torch.strided:
            return id(value)
        return str(value.dtype), tuple(value.shape), _bytes(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufcSU":
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, torch.Generator):
        return _bytes(value.get_state())
    if isinstance(value, dict):
        return [
            (fingerprint(key, depth - 1, by_class), fingerprint(each, depth - 1, by_class))
            for key, each in value.items()
        ]
    if isinstance(value, CONTAINERS):
        each = [fingerprint(item, depth - 1, by_class) for item in value]
        return sorted(each, key=repr) if isinstance(value, set | frozenset) else each
    if isinstance(value, _BY_IDENTITY):
        return id(value)
    try:
        reduced = value.__reduce_ex__(4)
    except Exception:  # an object of any make may refuse
        return id(value)
    return reduced if isinstance(reduced, str) else fingerprint(tuple(reduced[1:3]), depth - 1, by_class)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()

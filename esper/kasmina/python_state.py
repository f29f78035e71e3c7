"""What a network keeps in Python beside its tensors: attributes of its layers, and their extra state.

Plain PyTorch carries such state along by itself; whoever copies, resumes or puts back a network has to do so by name.
"""

import copy
import functools
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence, Set
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from esper.errors import CheckpointError
from esper.kasmina.copying import HOOKS

EXTRA_STATE = "extra_state()"  # stands where an attribute's name would
TRAINED = ":requires_grad"  # ends the name of a parameter
PLAIN = (type(None), bool, int, float, complex, str, bytes)
CONTAINERS = (list, tuple, set, frozenset, dict, deque)
_INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
KEPT_DTYPES = {*_INTEGERS, torch.float16, torch.bfloat16, torch.float32, torch.float64}  # that a checkpoint can hold
OF_MODULES = frozenset(vars(nn.Module()))  # attributes that every module has
_BY_IDENTITY = (BuiltinFunctionType, FunctionType, MethodType, ModuleType, type, nn.Module)
_DEPTH = 20
_EMPTY = CellType()
KEEP_APART = "all members share it: keep it on the network itself (self.NAME), or in a buffer"


@functools.cache
def _is_library(module: str) -> bool:
    return module.startswith(("torch.", "esper."))


def is_library(kind: type) -> bool:
    """Whether it is a layer of torch or esper, which keeps nothing in Python as it runs."""
    return _is_library(kind.__module__)


def has_own_code(module: nn.Module) -> bool:
    """Whether any of its layers is of another make than torch's or esper's."""
    return any(not is_library(type(part)) for part in module.modules())


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Of every layer but esper's own, whose promise is to keep nothing; layers of torch may be written on by others."""
    if not (getattr(module, "is_users_own", False) or has_own_code(module)):
        return
    for path, part in module.named_modules():
        if type(part).__module__.startswith(("esper.", "torch._dynamo")):
            continue
        prefix = f"{path}." if path else ""
        for name, value in vars(part).items():
            if name not in OF_MODULES and not isinstance(value, nn.Module):
                yield f"{prefix}{name}", value
        for name, parameter in part._parameters.items():
            if parameter is not None:
                yield f"{prefix}{name}{TRAINED}", parameter.requires_grad
        if type(part).get_extra_state is not nn.Module.get_extra_state:
            yield f"{prefix}{EXTRA_STATE}", part.get_extra_state()


def structure(module: nn.Module) -> dict[str, object]:
    """By layer: what it is made of. Equal as long as a network that is built anew can take on this one's state."""
    if not (getattr(module, "is_users_own", False) or has_own_code(module)):
        return {}
    layers: dict[str, object] = {}
    inside: tuple[str, ...] = ()
    for path, part in module.named_modules():
        if path.startswith(inside):
            continue
        if hasattr(part, "seed"):  # a slot, whose seeds come and go
            inside += (f"{path}.",)
            continue
        tensors = (*part._parameters.items(), *part._buffers.items())
        held = [
            (name, None if tensor is None or nn.parameter.is_lazy(tensor) else (tensor.shape, tensor.dtype))
            for name, tensor in tensors
        ]
        layers[path] = (type(part), held, list(part._modules), [len(getattr(part, kind)) for kind in HOOKS])
    return layers


def check_structure(module: nn.Module, initial: Mapping[str, object]) -> None:
    """Raises: CheckpointError, naming the layer, where a network is no longer made of what it was."""
    now = structure(module)
    for path in {**initial, **now}:
        if initial.get(path) != now.get(path):
            raise CheckpointError(
                f"{path or type(module).__name__}: layers, tensors or hooks of it came or went as it ran, so that a "
                "network built anew could not take on its state; make them in __init__"
            )


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
        if name != EXTRA_STATE and not name.endswith(TRAINED):
            delattr(parts[owner], name)
    for path, value in {**initial, **state}.items():
        owner, _, name = path.rpartition(".")
        if owner not in parts:
            continue  # a seed that is gone
        if name.endswith(TRAINED):
            parts[owner]._parameters[name.removesuffix(TRAINED)].requires_grad_(value)
        elif name == EXTRA_STATE:
            parts[owner].set_extra_state(_copied(value))
        elif not _equal(getattr(parts[owner], name, None), value):
            setattr(parts[owner], name, _copied(value))


def fingerprints(module: nn.Module) -> dict[str, Any]:
    """Of every attribute, kept or not: equal as long as nothing in it has changed."""
    return {path: fingerprint(value) for path, value in _attributes(module)}


def shared_fingerprints(module: nn.Module) -> dict[str, Any]:
    """Of what a network's code shares with all copies: data of its classes, and globals that its methods name."""
    found: dict[str, Any] = {}
    for kind in {each for part in module.modules() for each in type(part).__mro__ if not is_library(each)}:
        for name, value in vars(kind).items():
            code = getattr(value, "__code__", None)
            if code is not None:
                named = {other: value.__globals__[other] for other in code.co_names if other in value.__globals__}
                found |= {
                    f"{other} (global, of {kind.__name__}.{name})": fingerprint(held) for other, held in named.items()
                }
            elif not name.startswith("__"):
                found[f"{kind.__name__}.{name}"] = fingerprint(value)
    return found


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


def fingerprint(value: Any, depth: int = _DEPTH, names: Mapping[int, str] | None = None) -> Any:
    """Comparable by ==, NaN included; of an object, all that its reduction for copying names.

    names: of a network's own parts, by identity, where the settings of two networks are compared: parts stand for their
    names, functions for their code, and modules that are no parts for their classes.
    """
    if names is not None and depth > 0:
        if id(value) in names:
            return names[id(value)]
        if isinstance(value, nn.Module):
            return type(value)
        if (code := _code(value)) is not None:
            return fingerprint(code, depth - 1, names)
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
            (fingerprint(key, depth - 1, names), fingerprint(each, depth - 1, names)) for key, each in value.items()
        ]
    if isinstance(value, CONTAINERS):
        each = [fingerprint(item, depth - 1, names) for item in value]
        return sorted(each, key=repr) if isinstance(value, set | frozenset) else each
    if isinstance(value, _BY_IDENTITY):
        return id(value)
    try:
        reduced = value.__reduce_ex__(4)
    except Exception:  # an object of any make may refuse
        return id(value)
    return reduced if isinstance(reduced, str) else fingerprint(tuple(reduced[1:3]), depth - 1, names)


def _code(value: Any) -> tuple[Any, ...] | None:
    """What another function, method or weak reference has alike that does the same; None for anything else."""
    if isinstance(value, weakref.ref):
        return (value(),)
    if isinstance(value, MethodType):
        return value.__func__, value.__self__
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents if cell != _EMPTY else None for cell in value.__closure__ or ()]
        return id(value.__globals__), hash(value.__code__), value.__defaults__, value.__kwdefaults__, cells
    return None


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()

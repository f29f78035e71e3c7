"""Which values torch.load(weights_only=True) would refuse, where they are, and what to store instead."""

import sys
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from datetime import date, time
from enum import Enum
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from esper.checkpoint.legacy.pickle_machine import CALLED, Global, Key, StandIn
from esper.checkpoint.legacy.pickle_scan import entries
from esper.printing import printable

_MAX_LEVELS = 20
_MAX_INTEGER_BITS = 255 * 8 - 1  # longer ones take an opcode that the restricted unpickler lacks
_SHOWN_KEY = 60
_ATOMS = (type(None), bool, int, float, str, bytes, bytearray, complex)
_CONTAINERS = (list, tuple, dict, set, OrderedDict, Counter)
_TORCH = (Tensor, nn.Parameter, torch.Size, torch.dtype, torch.device, torch.layout, torch.UntypedStorage)
_BY_HAND = "needs manual inspection"
_RUNS_CODE = "CRITICAL: runs code when loaded; do not load"
_ENUM_FORMS = ([int], [str])
_RUNNING_MODULES = {
    *("os", "posix", "nt", "sys", "subprocess", "pty", "shutil", "socket", "ctypes", "webbrowser"),
    *("importlib", "runpy", "code", "pdb", "timeit", "pydoc", "pip", "pickle", "_pickle"),
}
_RUNNING_BUILTINS = {
    *("eval", "exec", "compile", "open", "getattr", "setattr", "__import__", "breakpoint", "input", "apply")
}

Child = tuple[str, Any]


def audit_value(value: Any, path: str = "root") -> list[str]:
    """One line for each value inside `value` that a weights-only load refuses: its path, what it is, what to store.

    Containers of every kind, dictionary keys and fields of dataclasses are looked into. What is nested past 20 levels,
    or contains itself, is reported and not followed; an object that was met before is referred to, not listed again.
    """
    walk = _Walk()
    walk.visit(value, path, 0)
    return walk.lines


class _Walk:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.above: set[int] = set()
        self.seen: dict[int, str] = {}  # id → the path of a container that has findings; "" for one that has none

    def visit(self, value: Any, path: str, level: int) -> None:
        if id(value) in self.above:
            self.lines.append(f"{path}: cycle (it contains itself, a circular reference; not followed) → {_BY_HAND}")
            return
        if (earlier := self.seen.get(id(value))) is not None:
            self.lines += [f"{path}: the same object as {earlier} → see there"] if earlier else []
            return
        before = len(self.lines)
        self.lines += [f"{path}: {verdict}"] if (verdict := _verdict(value)) else []
        is_container = False
        self.above.add(id(value))
        for suffix, child in _children(value):
            is_container = True
            if level == _MAX_LEVELS:
                self.lines.append(f"{path}: recursion past {_MAX_LEVELS} levels (depth not followed) → {_BY_HAND}")
                break
            self.visit(child, path + suffix, level + 1)
        self.above.discard(id(value))
        if is_container:
            self.seen[id(value)] = path if len(self.lines) > before else ""


def _verdict(value: Any) -> str | None:
    """What a value is and what to store instead; None where it may stay."""
    kind = type(value)
    if _is_atom(value) or kind in _CONTAINERS or kind in _TORCH:
        return None
    match value:
        case Global():
            return None if value.is_safe else f"{value.name} (a class or function) → {_BY_HAND}"
        case StandIn():
            return None if value.what.is_safe else _verdict_of_stand_in(value)
        case int() if kind is int:
            return f"int of {value.bit_length()} bits → str"
        case bytes() if kind is bytes:
            return f"bytes of length 0 → {_BY_HAND} (store None)"
        case type():
            return f"{value.__module__}.{value.__qualname__} (a class) → {_BY_HAND}"
        case _:
            return _verdict_of_kind(kind)


def _verdict_of_kind(kind: type) -> str:
    """The verdict for an object of this class; the class is looked at, and none of its code runs."""
    name = kind.__qualname__
    if issubclass(kind, Enum):
        return f"Enum {name} → int" + (" (or its text, `.value`)" if issubclass(kind, str) else "")
    if issubclass(kind, date | time):
        return f"{name} → ISO 8601 string"
    if issubclass(kind, deque):
        return f"{name} → list"
    if issubclass(kind, nn.Module):
        return f"nn.Module {name} → CRITICAL: store state_dict separately"
    if _has(kind, "__dataclass_fields__"):
        return f"dataclass {name} → dict via `to_dict()`" + ("" if _has(kind, "to_dict") else ", still to be written")
    if issubclass(kind, tuple) and _has(kind, "_fields"):
        return f"namedtuple {name} → {_BY_HAND} (store a plain tuple, or `_asdict()`)"
    if issubclass(kind, dict):
        return f"{name} → {_BY_HAND} (store a plain dict)"
    if issubclass(kind, list | tuple | set | frozenset):
        return f"{name} → {_BY_HAND} (store a plain list)"
    return f"{kind.__module__}.{name} → {_BY_HAND}".removeprefix("builtins.")


def _verdict_of_stand_in(value: StandIn) -> str:
    if value.is_call and (verdict := verdict_of_call(value.what)):
        return verdict
    if (kind := _loaded_class(value.what)) is not None:
        return _verdict_of_kind(kind)
    name, state = value.what.name, value.state
    # Its class is in no module that is loaded, and a file does not get to choose what is: its form has to tell.
    if isinstance(state, dict) and {"_parameters", "_modules"} <= state.keys():
        return f"nn.Module {name} → CRITICAL: store state_dict separately"
    if value.is_call and state is None and not value.items and [type(given) for given in value.args] in _ENUM_FORMS:
        return f"Enum {name}, by its form → its value"
    if not value.is_call:
        return f"object of class {name} → {_BY_HAND} (if it is a dataclass: dict via `to_dict()`)"
    return f"{name}(...) → {_BY_HAND}"


def verdict_of_call(what: Global) -> str | None:
    """What a call of this is when it runs code of the file's choice, or reaches what does; None for any other."""
    is_builtin = what.module == "builtins" and what.qualname in _RUNNING_BUILTINS
    is_running = is_builtin or what.module.partition(".")[0] in _RUNNING_MODULES or what.qualname.endswith(CALLED)
    return f"{what.name}(...) → {_RUNS_CODE}" if is_running else None


def _loaded_class(what: Global) -> type | None:
    """The class of this name if its module is loaded already, by looking only: no import, no attribute hooks."""
    found: Any = sys.modules.get(what.module)
    for part in what.qualname.split("."):
        found = vars(found).get(part) if isinstance(found, ModuleType | type) else None
    return found if isinstance(found, type) else None


def _children(value: Any) -> Iterator[Child]:
    """The suffix to the path, and the value, of everything inside that could be refused."""
    if (pairs := entries(value)) is not None:
        yield from _pairs(pairs)
    elif isinstance(value, StandIn):
        yield from _inside(value)
    elif isinstance(value, torch.Size | type | Enum):
        return
    elif isinstance(value, list | tuple | deque):
        yield from _indexed(value, "[{}]")
    elif isinstance(value, set | frozenset):
        yield from _indexed(value, "{{{}}}")
    elif is_dataclass(value) and not isinstance(value, nn.Module):
        named = {entry.name: getattr(value, entry.name) for entry in fields(value) if hasattr(value, entry.name)}
        yield from _fields(named)


def _inside(value: StandIn) -> Iterator[Child]:
    is_set = value.what.name in ("builtins.set", "builtins.frozenset")
    yield from _indexed(value.items, "{{{}}}" if is_set else "[{}]")
    yield from _pairs(iter(value.pairs))
    if value.what.is_safe or not value.is_call:
        yield from _indexed(value.args, "[{}]")
    if "nn.Module" in (_verdict(value) or ""):
        return
    # An object's state is the dictionary of its fields, or that and the dictionary of its slots.
    for part in value.state if isinstance(value.state, tuple) else (value.state,):
        if isinstance(part, dict):
            yield from _fields(part)


def _fields(named: dict[Any, Any]) -> Iterator[Child]:
    return ((f".{printable(str(name))}", item) for name, item in named.items() if not _is_atom(item))


def _indexed(items: Any, form: str) -> Iterator[Child]:
    return ((form.format(index), item) for index, item in enumerate(items) if not _is_atom(item))


def _pairs(pairs: Iterator[tuple[Any, Any]]) -> Iterator[Child]:
    for index, (key, item) in enumerate(pairs):
        key = key.value if isinstance(key, Key) else key
        if not _is_atom(key):
            yield f".keys()[{index}]", key
        if not _is_atom(item):
            yield f"[{_shown(key, index)}]", item


def _shown(key: Any, index: int) -> str:
    if type(key) not in _ATOMS:
        return f"<key {index}>"
    text = repr(key) if type(key) is not int or key.bit_length() < _SHOWN_KEY else f"<key {index}>"
    return text if len(text) <= _SHOWN_KEY else f"{text[:_SHOWN_KEY]}...{text[0]}"


def _is_atom(value: Any) -> bool:
    kind = type(value)
    if kind is int:
        return bool(value.bit_length() <= _MAX_INTEGER_BITS)
    return kind in _ATOMS and (kind is not bytes or len(value) > 0)


def _has(kind: type, name: str) -> bool:
    return any(name in vars(base) for base in kind.__mro__)

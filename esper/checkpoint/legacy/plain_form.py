"""The plain form of what old files hold: their values as a sidecar can hold them, and their tensors by name."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, time
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from esper.checkpoint.plain import is_spelled, spelled

_MAX_DEPTH = 60  # below what a sidecar may hold


class PlainForm:
    """Turns values into plain ones: `problems` names each that has no plain form, in words.

    `tensors` takes tensors and arrays, by their paths; None: there is no place for any.
    """

    def __init__(self, tensors: dict[str, Tensor] | None = None) -> None:
        self.tensors = tensors
        self.problems: list[str] = []
        self._above: dict[int, str] = {}  # what is being looked into: id → path

    def convert(self, value: Any, path: str = "") -> Any:
        """The plain form of the value at this path; None where there is none, which is a problem."""
        match value:
            case None | bool():
                return value
            case Enum():
                return self.convert(value.value, path)
            case np.generic() if not isinstance(value.item(), np.generic):  # a longdouble has no Python form
                return self.convert(value.item(), path)
            case int():
                return int(value)
            case float():
                return spelled(float(value))
            case str():
                return str(value)
            case torch.dtype() | torch.device() | PurePath():
                return str(value)
            case date() | time():
                return value.isoformat()
            case Tensor() if self.tensors is not None:
                return self._put_aside(value, path)
            case np.ndarray() if self.tensors is not None:
                return self._put_aside_array(value, path)
            case list() | tuple() | deque() | set() | frozenset() | dict():
                return self._inside(value, path)
            case _ if is_dataclass(value) and not isinstance(value, type | nn.Module):
                return self._inside(value, path)
        return self._refuse(path, f"is a {kind(value)}, which is neither a plain value nor a tensor to keep")

    def _inside(self, value: Any, path: str) -> Any:
        """The plain form of a container."""
        if id(value) in self._above:
            return self._refuse(self._above[id(value)], f"contains itself, at {path}")
        if len(self._above) >= _MAX_DEPTH:
            return self._refuse(path[:80], f"is nested deeper than {_MAX_DEPTH} levels")
        self._above[id(value)] = path
        try:
            match value:
                case dict():
                    return self._mapping(value, path)
                case set() | frozenset():
                    return sorted(self._items(value, path), key=_order)
                case list() | tuple() | deque():
                    return self._items(value, path)
            own = getattr(value, "to_dict", None)
            named = own() if own else {entry.name: getattr(value, entry.name) for entry in fields(value)}
            return self._mapping(named, path)
        finally:
            del self._above[id(value)]

    def _items(self, values: Iterable[Any], path: str) -> list[Any]:
        return [self.convert(item, _join(path, index)) for index, item in enumerate(values)]

    def _mapping(self, values: Mapping[Any, Any], path: str) -> dict[str, Any]:
        plain: dict[str, Any] = {}
        for key, item in values.items():
            if not isinstance(key, str) and type(key) is not int:
                self._refuse(path, f"has a key that is a {kind(key)}; expected text or an integer")
            elif str(key) in plain:
                self._refuse(path, f"has two keys that are the same as text, {key}")
            else:
                plain[str(key)] = self.convert(item, _join(path, key))
        if is_spelled(plain):
            self._refuse(path, "is a dictionary that would be read back as a number that is not finite")
        return plain

    def _put_aside(self, tensor: Tensor, path: str) -> Any:
        assert self.tensors is not None
        if path in self.tensors:
            return self._refuse(path, "is the place of two tensors")
        self.tensors[path] = tensor
        return {"tensor": path}

    def _put_aside_array(self, array: Any, path: str) -> Any:
        try:
            return self._put_aside(torch.tensor(array), path)
        except (TypeError, ValueError):
            return self._refuse(path, f"is an array of {array.dtype}, which no tensor holds")

    def _refuse(self, path: str, reason: str) -> None:
        self.problems.append(f"{path or 'the file'} {reason}")


def kind(value: Any) -> str:
    """The name of a value's class, as one would write it in Python."""
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def _join(path: str, key: str | int) -> str:
    return f"{path}.{key}" if path else str(key)


def _order(plain: Any) -> tuple[str, float, str]:
    return type(plain).__name__, plain if isinstance(plain, int | float) else 0.0, str(plain)

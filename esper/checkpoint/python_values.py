"""Python values that are no plain ones (tuples, sets, keys of any kind, tensors), for a sidecar and its tensors.

What JSON has is written as it is; everything else is an object of one key, which names what it is.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from esper.checkpoint.plain import spelled
from esper.errors import CheckpointError


def encode(value: Any, tensors: dict[str, Tensor], key: str) -> Any:
    """The plain form; tensors and arrays go into `tensors`, under names that begin with `key`.

    Raises CheckpointError on a value of another kind.
    """

    def inside(items: Any) -> list[Any]:
        return [encode(item, tensors, f"{key}.{index}") for index, item in enumerate(items)]

    match value:
        case None | bool() | str():
            return value
        case np.generic():
            return {"scalar": [value.dtype.str, encode(value.item(), tensors, key)]}
        case int():
            return int(value)
        case float():
            return spelled(value)
        case complex():
            return {"complex": [spelled(value.real), spelled(value.imag)]}
        case bytes():
            return {"bytes": value.hex()}
        case Tensor():
            tensors[key] = value
            return {"tensor": [key, value.device.type]}
        case np.ndarray():
            tensors[key] = torch.from_numpy(value.copy())
            return {"array": key}
        case dict():
            halves = (list(value), f"{key}.keys"), (list(value.values()), f"{key}.values")
            return {"dict": [encode(half, tensors, name) for half, name in halves]}
        case deque():
            return {"deque": [value.maxlen, inside(value)]}
        case list():
            return inside(value)
        case tuple() | set() | frozenset():
            return {type(value).__name__: inside(value)}
    raise CheckpointError(f"{key} is a {type(value).__name__}, which a checkpoint cannot hold")


def decode(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value that `encode` described. Raises CheckpointError where the plain form is of nothing known."""
    if isinstance(plain, list):
        return [decode(item, tensors) for item in plain]
    if not isinstance(plain, dict):
        return plain
    kind, held = next(iter(plain.items())) if len(plain) == 1 else ("", None)
    try:
        return _decoded(kind, held, tensors)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"a kept value is altered: {kind} {str(held)[:80]}") from error


def _decoded(kind: str, held: Any, tensors: Mapping[str, Tensor]) -> Any:
    match kind:
        case "tensor":
            device = held[1] if torch.cuda.is_available() else "cpu"
            return tensors[held[0]].to(device)
        case "array":
            return tensors[held].numpy().copy()
        case "scalar":
            return np.dtype(held[0]).type(decode(held[1], tensors))
        case "float":
            return float(held)
        case "complex":
            return complex(*(float(part) if isinstance(part, int | float) else decode(part, tensors) for part in held))
        case "bytes":
            return bytes.fromhex(held)
        case "dict":
            keys, values = decode(held, tensors)
            return dict(zip(keys, values, strict=True))
        case "deque":
            return deque(decode(held[1], tensors), held[0])
        case "tuple" | "set" | "frozenset":
            return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](decode(held, tensors))
    raise CheckpointError(f"a kept value is altered: {kind or 'object'} {str(held)[:80]}")

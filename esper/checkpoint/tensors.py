"""Named tensors as safetensors bytes, and back."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from esper.checkpoint.layout import DTYPE_NAMES, RESERVED_NAME, Place, lay_out, places
from esper.checkpoint.plain import is_unicode
from esper.errors import CheckpointError

_SHOWN = 3


def encode_tensors(tensors: Mapping[str, Tensor]) -> tuple[list[bytes | memoryview], dict[str, str]]:
    """A safetensors file in parts, and the aliases: name of a tied tensor → the name it is stored under.

    The parts are views of the tensors wherever these are contiguous and on the CPU: write them before the tensors
    change. Tensors of any shape, stride and device; stored contiguous. Two names of the very same view are stored once;
    views that merely overlap are stored apart. Raises CheckpointError naming a tensor that cannot be stored.
    """
    # The resolved tensors are held until all are compared: an address that was freed could name another tensor.
    views = {name: storable(name, tensor) for name, tensor in tensors.items()}
    stored: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first_name: dict[tuple[object, ...], str] = {}
    seen_storages: set[tuple[torch.device, int]] = set()
    for name, view in views.items():
        storage = (view.device, view.untyped_storage().data_ptr())
        identity = (*storage, view.dtype, view.storage_offset(), view.shape, view.stride())
        if view.numel() and identity in first_name:
            aliases[name] = first_name[identity]
            continue
        first_name[identity] = name
        try:
            view = view.clone(memory_format=torch.contiguous_format) if storage in seen_storages else view
            stored[name] = view.contiguous().cpu()
        except (RuntimeError, MemoryError) as error:  # a small storage may be spread over any number of elements
            reason = str(error).partition("\n")[0]
            raise CheckpointError(f"The tensor {name!r} {list(view.shape)} cannot be laid out: {reason}") from error
        seen_storages.add(storage)
    head, order = lay_out(stored)
    return [head, *(_bytes(stored[name]) for name in order)], aliases


def decode_tensors(data: bytes | memoryview, aliases: Mapping[str, str], where: str) -> dict[str, Tensor]:
    """The tensors in these bytes, in memory of their own; an alias is the same tensor as the one it names.

    A writable buffer becomes that memory: leave it to them.
    Raises CheckpointError where the bytes or the aliases are malformed.
    """
    try:
        buffer = memoryview(data)
        if buffer.readonly:
            buffer = np.frombuffer(data, np.uint8).copy().data
        tensors = {place.name: _tensor(buffer, place) for place in places(buffer)}
    except Exception as error:  # malformed bytes are answered with exceptions of many kinds
        raise CheckpointError(f"{where} is no safetensors file: {error or type(error).__name__}.") from error
    for alias, name in aliases.items():
        if alias in tensors or name not in tensors:
            raise CheckpointError(f"{where}: {alias!r} is recorded as tied to {name!r}, which the tensors contradict.")
    return tensors | {alias: tensors[name] for alias, name in aliases.items()}


def compare_tensors(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], where: str) -> None:
    """Raise CheckpointError unless both have the same names, shapes and dtypes."""
    differences = [f"{name!r} is missing" for name in expected if name not in found]
    differences += [f"{name!r} is not expected" for name in found if name not in expected]
    for name in expected.keys() & found.keys():
        wanted, got = expected[name], found[name]
        if wanted.shape != got.shape or wanted.dtype != got.dtype:
            differences.append(f"{name!r} is {_describe(got)}, expected {_describe(wanted)}")
    if differences:
        rest = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        shown = "; ".join(sorted(differences)[:_SHOWN])
        raise CheckpointError(
            f"{where} belongs to another architecture: {shown}{rest}. Build the network its config describes."
        )


def storable(name: str, tensor: Tensor) -> Tensor:
    """The tensor as its values alone: no gradient, no class of its own, no bits that stand for an operation.

    Raises CheckpointError naming one that a file cannot hold.
    """
    if not isinstance(name, str) or name == RESERVED_NAME or not is_unicode(name):
        raise CheckpointError(f"A tensor cannot be named {name!r}: expected any text but {RESERVED_NAME!r}.")
    if not isinstance(tensor, Tensor):
        raise CheckpointError(
            f"{name!r} is a {type(tensor).__name__}, expected a tensor; plain values go to the sidecar."
        )
    if tensor.is_meta or torch.nn.parameter.is_lazy(tensor):
        raise CheckpointError(f"The tensor {name!r} has no values yet. Run the network once before saving it.")
    # A class with a dispatch of its own keeps its values elsewhere.
    is_plain = type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__ and not tensor.is_nested
    if not is_plain or tensor.layout != torch.strided or tensor.dtype not in DTYPE_NAMES:
        what = type(tensor).__name__ if not is_plain else f"{tensor.layout}, {tensor.dtype}"
        raise CheckpointError(
            f"The tensor {name!r} ({what}) cannot be stored: expected a dense tensor of a standard dtype. "
            "Convert it before saving."
        )
    with torch._C.DisableTorchFunctionSubclass():
        values = tensor.detach().resolve_conj().resolve_neg().as_subclass(Tensor)
        if not _has_storage(values):  # reading past its end would crash
            raise CheckpointError(f"The tensor {name!r} {list(tensor.shape)} has no values: its storage was freed.")
    return values


def _has_storage(tensor: Tensor) -> bool:
    """Whether the storage holds every element that shape, strides and offset point at."""
    if tensor.numel() == 0:
        return True
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    try:
        storage = tensor.untyped_storage()
        available = storage.nbytes() if storage.data_ptr() else 0
    except RuntimeError:  # one without memory, as of a tensor that is zero by definition
        return False
    return (tensor.storage_offset() + last + 1) * tensor.element_size() <= available


def _bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor. Its strides may be anything where a dimension has a single element."""
    flat = tensor.as_strided((tensor.numel(),), (1,))
    return flat.view(torch.uint8).numpy().data


def _tensor(buffer: memoryview, place: Place) -> Tensor:
    if place.start == place.stop:
        return torch.empty(place.shape, dtype=place.dtype)
    raw = torch.frombuffer(buffer, dtype=torch.uint8, count=place.stop - place.start, offset=place.start)
    if raw.data_ptr() % place.dtype.itemsize:  # a file of another writer
        raw = raw.clone()
    return raw.view(place.dtype).view(place.shape)


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"

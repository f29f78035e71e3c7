"""Named tensors as safetensors bytes, and back."""

from collections.abc import Mapping

import safetensors.torch
import torch
from torch import Tensor

from esper.errors import CheckpointError

_STORABLE = frozenset(
    {
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.bool),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8),
        *(torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz),
    }
)
_RESERVED_NAME = "__metadata__"
_SHOWN = 3


def encode_tensors(tensors: Mapping[str, Tensor]) -> tuple[bytes, dict[str, str]]:
    """The bytes of a safetensors file, and the aliases: name of a tied tensor → the name it is stored under.

    Tensors of any shape, stride and device; stored contiguous. Two names of the very same view are stored once;
    views that merely overlap are stored apart. Raises CheckpointError naming a tensor that cannot be stored.
    """
    # The resolved tensors are held until all are compared: an address that was freed could name another tensor.
    views = {name: _storable(name, tensor) for name, tensor in tensors.items()}
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
        stored[name] = view.clone(memory_format=torch.contiguous_format) if storage in seen_storages else view
        stored[name] = stored[name].contiguous().cpu()
        seen_storages.add(storage)
    return safetensors.torch.save(stored), aliases


def decode_tensors(data: bytes, aliases: Mapping[str, str], where: str) -> dict[str, Tensor]:
    """The tensors in these bytes, in memory of their own; an alias is the same tensor as the one it names.

    Raises CheckpointError where the bytes or the aliases are malformed.
    """
    try:
        tensors = safetensors.torch.load(data)
    except Exception as error:  # the parser answers malformed bytes with exceptions of many kinds
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


def _storable(name: str, tensor: Tensor) -> Tensor:
    if not isinstance(name, str) or name == _RESERVED_NAME:
        raise CheckpointError(f"A tensor cannot be named {name!r}: expected any text but {_RESERVED_NAME!r}.")
    if not isinstance(tensor, Tensor):
        raise CheckpointError(
            f"{name!r} is a {type(tensor).__name__}, expected a tensor; plain values go to the sidecar."
        )
    if tensor.is_meta or torch.nn.parameter.is_lazy(tensor):
        raise CheckpointError(f"The tensor {name!r} has no values yet. Run the network once before saving it.")
    if tensor.layout != torch.strided or tensor.dtype not in _STORABLE:
        raise CheckpointError(
            f"The tensor {name!r} ({tensor.layout}, {tensor.dtype}) cannot be stored: expected a dense tensor of a "
            "standard dtype. Convert it before saving."
        )
    return tensor.detach().resolve_conj().resolve_neg()


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"

"""Any network as a checkpoint."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from esper.checkpoint.bundle import Checkpoint, read_bundle, write_bundle
from esper.checkpoint.plain import spelled
from esper.checkpoint.tensors import compare_tensors
from esper.errors import CheckpointError


def save_checkpoint(
    model: nn.Module,
    output_path: str | os.PathLike[str],
    config: dict[str, Any] | None = None,
    metadata: dict[str, Any] | None = None,
) -> Path:
    """Write a network as `.safetensors` + `.json`, and return the path of the tensors.

    Tied, bf16, 0-d, empty and non-contiguous tensors come back exactly; so do the plain values of `get_extra_state()`.
    `config` and `metadata` hold plain values; in `metadata` numbers need not be finite.
    Raises CheckpointError; an existing checkpoint is then untouched.
    """
    tensors, extra = module_state(model)
    checkpoint = Checkpoint(
        tensors=tensors, kind="module", state=extra, config=config or {}, metadata=spelled(metadata or {})
    )
    return write_bundle(output_path, checkpoint)


def load_checkpoint(
    model: nn.Module, checkpoint_path: str | os.PathLike[str], device: str | torch.device | None = None
) -> dict[str, Any]:
    """Load a checkpoint into a network of the same architecture and return its sidecar ("config", "metadata", ...).

    With a `device`, the network is moved there. Raises CheckpointError where the files are unsound, or where names,
    shapes or dtypes differ; the network's tensors are then untouched.
    """
    checkpoint = read_bundle(checkpoint_path)
    restore_module(model, checkpoint)
    if device is not None:
        model.to(device)
    return checkpoint.sidecar


def module_state(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A network's `state_dict()` as tensors, and its extra states as plain values."""
    state = module.state_dict()
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return tensors, {name: value for name, value in state.items() if name not in tensors}


def restore_module(module: nn.Module, checkpoint: Checkpoint) -> None:
    """Copy a checkpoint's tensors and extra states into a network; its storage stays where it is.

    Extra states are set first, so that a module may rebuild its inside from them before shapes are compared.
    Raises CheckpointError where names, shapes or dtypes differ.
    """
    where = str(checkpoint.path or f"The {checkpoint.kind} checkpoint")
    extra = module_state(module)[1]
    if extra.keys() != checkpoint.state.keys():
        differing = ", ".join(sorted(extra.keys() ^ checkpoint.state.keys()))
        raise CheckpointError(f"{where} belongs to another architecture: only one of the two has {differing}.")
    if extra:
        module.load_state_dict(checkpoint.state, strict=False)
    compare_tensors(module_state(module)[0], checkpoint.tensors, where)
    module.load_state_dict({**checkpoint.tensors, **checkpoint.state})

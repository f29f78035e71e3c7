"""What is kept: checkpoints as safetensors + JSON, run records, the lock on a run directory.

Knows tensors and plain values; whoever rebuilds an object from them hands in the builder.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esper.checkpoint.bundle import Checkpoint, Unsound, read_bundle, write_bundle
    from esper.checkpoint.convert import migrate_torch_checkpoint
    from esper.checkpoint.manager import Agent, CheckpointManager
    from esper.checkpoint.model import load_checkpoint, module_state, restore_module, save_checkpoint
    from esper.checkpoint.plain import fingerprint, spelled
    from esper.checkpoint.restoration import restoring
    from esper.checkpoint.rng import pack_generators, unpack_generators
    from esper.checkpoint.run_lock import RunLock

__all__ = [
    "Agent",
    "Checkpoint",
    "CheckpointManager",
    "RunLock",
    "Unsound",
    "fingerprint",
    "load_checkpoint",
    "migrate_torch_checkpoint",
    "module_state",
    "pack_generators",
    "read_bundle",
    "restore_module",
    "restoring",
    "save_checkpoint",
    "spelled",
    "unpack_generators",
    "write_bundle",
]

# name -> the module that has it: what needs no torch, as the lock, is had without loading it.
_LAZY = {
    "Agent": "manager",
    "Checkpoint": "bundle",
    "CheckpointManager": "manager",
    "RunLock": "run_lock",
    "Unsound": "bundle",
    "fingerprint": "plain",
    "load_checkpoint": "model",
    "migrate_torch_checkpoint": "convert",
    "module_state": "model",
    "pack_generators": "rng",
    "read_bundle": "bundle",
    "restore_module": "model",
    "restoring": "restoration",
    "save_checkpoint": "model",
    "spelled": "plain",
    "unpack_generators": "rng",
    "write_bundle": "bundle",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)

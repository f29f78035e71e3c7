"""What is kept: checkpoints as safetensors + JSON, run records, the lock on a run directory.

Knows tensors and plain values; whoever rebuilds an object from them hands in the builder.
"""

from esper.checkpoint.bundle import Checkpoint, Unsound, read_bundle, write_bundle
from esper.checkpoint.convert import migrate_torch_checkpoint
from esper.checkpoint.manager import Agent, CheckpointManager
from esper.checkpoint.model import load_checkpoint, module_state, restore_module, save_checkpoint
from esper.checkpoint.plain import fingerprint, spelled
from esper.checkpoint.restoring import restoring
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

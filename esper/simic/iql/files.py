"""IQL models in files: `.safetensors` + sidecar, or torch files.

Either holds state_dim, action_dim, gamma, tau, beta, and the weights of q_network and v_network; those that esper wrote
hold q_twin, policy_network and normalizer, too.
"""

import os
from pathlib import Path
from typing import Any

from esper.checkpoint import Checkpoint, read_bundle, write_bundle
from esper.checkpoint.convert import read_torch, write_torch
from esper.checkpoint.sources import SUFFIXES
from esper.errors import LearnerError

KIND = "iql"
NUMBERS = ("state_dim", "action_dim", "gamma", "tau", "beta")
NETWORKS = ("q_network", "v_network", "q_twin", "policy_network")
_REQUIRED = (*NUMBERS, "q_network", "v_network")


def write_model(path: str | os.PathLike[str], held: dict[str, Any], metadata: dict[str, Any]) -> Path:
    """Write numbers and, by part, tensors by name; a torch file where the path ends like one. Returns the path."""
    if Path(path).suffix in SUFFIXES:
        return write_torch(held | {"metadata": metadata}, path)
    numbers = {name: held[name] for name in NUMBERS}
    tensors = {f"{part}.{name}": held[part][name] for part in held.keys() - set(NUMBERS) for name in held[part]}
    return write_bundle(path, Checkpoint(tensors=tensors, kind=KIND, state=numbers, metadata=metadata))


def read_model(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `write_model` wrote. Raises CheckpointError for an unreadable file, LearnerError for another kind of one."""
    if Path(path).suffix in SUFFIXES:
        held = read_torch(path)
    else:
        checkpoint = read_bundle(path)
        held = dict(checkpoint.state)
        for name, tensor in checkpoint.tensors.items():
            part, _, inner = name.partition(".")
            held.setdefault(part, {})[inner] = tensor
    missing = [key for key in _REQUIRED if not isinstance(held, dict) or key not in held]
    if missing:
        raise LearnerError(f"{path} holds no IQL model: it lacks {', '.join(missing)}.")
    return held

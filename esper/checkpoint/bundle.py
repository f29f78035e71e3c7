"""One checkpoint on disk: tensors in `.safetensors`, all else in the `.json` sidecar beside it.

The tensors are written first and the sidecar last: a checkpoint exists when its sidecar does.
"""

import contextlib
import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from esper import __version__
from esper.checkpoint.buffers import read_buffer
from esper.checkpoint.plain import check_plain, fingerprint
from esper.checkpoint.sidecar import SCHEMA_VERSION, encode_sidecar, pending_path, read_sidecar
from esper.checkpoint.tensors import compare_tensors, decode_tensors, encode_tensors
from esper.errors import CheckpointError
from esper.files import write_atomic


@dataclass(frozen=True, slots=True)
class Unsound:
    """A checkpoint that cannot be loaded, and why."""

    epoch: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What one checkpoint holds. All but tensors and the last three fields are plain JSON values.

    `epoch` is the run's own counter; `growth_log` says what was planted where and when; `state` is whatever else the
    saved object needs to continue; a metric that is absent or None is missing, not 0.
    """

    tensors: Mapping[str, Tensor]
    kind: str = "agent"
    epoch: int | None = None
    state: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    growth_log: list[Any] = field(default_factory=list)
    seed_states: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float | None] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    # Known after reading only:
    path: Path | None = None
    sidecar: dict[str, Any] = field(default_factory=dict)
    skipped: tuple[Unsound, ...] = ()


def bundle_paths(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The tensors file and the sidecar of a checkpoint named by either of them, by a `.pt` name or by their stem."""
    stem = Path(path)
    if stem.suffix in (".safetensors", ".json", ".pt", ".pth"):
        stem = stem.with_suffix("")
    return stem.with_name(f"{stem.name}.safetensors"), stem.with_name(f"{stem.name}.json")


def write_bundle(path: str | os.PathLike[str], checkpoint: Checkpoint) -> Path:
    """Write a checkpoint durably and return the path of its tensors.

    Killed at any moment, the folder holds the checkpoint that was there before or the new one, sound.
    Raises CheckpointError naming a value that JSON cannot hold or a tensor that cannot be stored, or when the disk is
    full; what was there before is then untouched.
    """
    tensors_path, sidecar_path = bundle_paths(path)
    parts, aliases = encode_tensors(checkpoint.tensors)
    sidecar = _sidecar_of(checkpoint, parts, aliases)
    pending = pending_path(sidecar_path)
    if sidecar_path.exists():
        # New tensors beside the old sidecar would be no checkpoint at all: a reader then finds their sidecar here.
        _settle(tensors_path, sidecar_path)
        write_atomic(pending, sidecar)
    write_atomic(tensors_path, *parts)
    write_atomic(sidecar_path, sidecar)
    pending.unlink(missing_ok=True)
    return tensors_path


def read_bundle(
    path: str | os.PathLike[str],
    *,
    expected: Mapping[str, Tensor] | None = None,
    device: str | torch.device = "cpu",
) -> Checkpoint:
    """Read and verify a checkpoint. Its tensors are in memory of their own, never views of the file.

    With `expected`, names, shapes and dtypes must be exactly those. Raises CheckpointError where anything is missing,
    altered, cut short, or not as expected; never any other exception, whatever the files hold.
    """
    tensors_path, sidecar_path = bundle_paths(path)
    sidecar = read_sidecar(sidecar_path)
    data = read_buffer(tensors_path)
    if sidecar["tensors_sha256"] != hashlib.sha256(data).hexdigest():
        sidecar = _pending_sidecar(sidecar_path, data, otherwise=_altered(tensors_path, len(data), sidecar))
    tensors = decode_tensors(data, sidecar["aliases"], str(tensors_path))
    if expected is not None:
        compare_tensors(expected, tensors, str(tensors_path))
    moved = {id(tensor): tensor.to(device) for tensor in tensors.values()}  # tied tensors stay tied
    fields = ("kind", "epoch", "state", "config", "growth_log", "seed_states", "metrics", "metadata")
    return Checkpoint(
        tensors={name: moved[id(tensor)] for name, tensor in tensors.items()},
        path=tensors_path,
        sidecar=sidecar,
        **{name: sidecar[name] for name in fields},
    )


def amend_metadata(path: str | os.PathLike[str], **values: Any) -> None:
    """Replace entries of a checkpoint's metadata by plain values; its tensors, and what is known of them, stay.

    Raises CheckpointError where the sidecar is not sound, or a value is not plain.
    """
    sidecar_path = bundle_paths(path)[1]
    sidecar = read_sidecar(sidecar_path)
    check_plain(values, "metadata")
    write_atomic(sidecar_path, encode_sidecar(sidecar | {"metadata": sidecar["metadata"] | values}))


def _sidecar_of(checkpoint: Checkpoint, parts: Sequence[bytes | memoryview], aliases: dict[str, str]) -> bytes:
    epoch = checkpoint.epoch
    if epoch is not None and (type(epoch) is not int or epoch < 0):
        raise CheckpointError(f"A checkpoint's epoch is an integer from 0 on, or None; got {epoch!r}.")
    for name, metric in checkpoint.metrics.items():
        if metric is not None and (isinstance(metric, bool) or not isinstance(metric, int | float)):
            raise CheckpointError(f"metrics[{name!r}] is a {type(metric).__name__}; expected a number or None.")
    content = {
        "schema": SCHEMA_VERSION,
        "kind": checkpoint.kind,
        "epoch": epoch,
        "metrics": checkpoint.metrics,
        "metadata": checkpoint.metadata,
        "config": checkpoint.config,
        "growth_log": checkpoint.growth_log,
        "seed_states": checkpoint.seed_states,
        "state": checkpoint.state,
        "aliases": aliases,
    }
    for name, value in content.items():
        check_plain(value, name)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    content |= {
        "config_sha256": fingerprint(checkpoint.config),
        "versions": {
            "esper": __version__,
            "python": platform.python_version(),
            "safetensors": safetensors.__version__,
            "torch": str(torch.__version__),
        },
        "tensors_bytes": sum(map(len, parts)),
        "tensors_sha256": digest.hexdigest(),
    }
    return encode_sidecar(content)


def _settle(tensors_path: Path, sidecar_path: Path) -> None:
    """Finish the work of a writer that was killed after its tensors were in place and before its sidecar was."""
    pending = pending_path(sidecar_path)
    with contextlib.suppress(CheckpointError, FileNotFoundError):
        if read_sidecar(pending)["tensors_sha256"] == hashlib.sha256(read_buffer(tensors_path)).hexdigest():
            os.replace(pending, sidecar_path)


def _pending_sidecar(sidecar_path: Path, data: memoryview, otherwise: CheckpointError) -> dict[str, Any]:
    try:
        sidecar = read_sidecar(pending_path(sidecar_path))
    except CheckpointError:
        raise otherwise from None
    if sidecar["tensors_sha256"] != hashlib.sha256(data).hexdigest():
        raise otherwise
    return sidecar


def _altered(path: Path, size: int, sidecar: dict[str, Any]) -> CheckpointError:
    expected = sidecar["tensors_bytes"]
    what = f"cut short: {size} bytes of {expected}" if size < expected else "altered: its sha256 is not its sidecar's"
    return CheckpointError(f"{path} is {what}. Put the original file back, or load an earlier checkpoint.")

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

import numpy as np
import safetensors
import torch
from torch import Tensor

from esper import __version__
from esper.checkpoint.plain import check_plain, fingerprint, parse_object, to_json
from esper.checkpoint.tensors import compare_tensors, decode_tensors, encode_tensors
from esper.errors import CheckpointError
from esper.files import open_to_read, write_atomic
from esper.files.reading import MOST_BYTES

SCHEMA_VERSION = 1
_MEMORY_BYTES = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # of this machine
_SELF_CHECK = "self_sha256"
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "kind": str,
    "epoch": (int, type(None)),
    "config": dict,
    "config_sha256": str,
    "growth_log": list,
    "seed_states": dict,
    "state": dict,
    "metrics": dict,
    "metadata": dict,
    "aliases": dict,
    "versions": dict,
    "tensors_bytes": int,
    "tensors_sha256": str,
}


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


def pending_path(sidecar_path: Path) -> Path:
    """Where the new sidecar waits while an existing checkpoint is overwritten."""
    return sidecar_path.with_name(f"{sidecar_path.name}.new")


def write_bundle(path: str | os.PathLike[str], checkpoint: Checkpoint) -> Path:
    """Write a checkpoint durably and return the path of its tensors.

    Killed at any moment, the folder holds the checkpoint that was there before or the new one, sound.
    Raises CheckpointError naming a value that JSON cannot hold or a tensor that cannot be stored, or when the disk is
    full; what was there before is then untouched.
    """
    tensors_path, sidecar_path = bundle_paths(path)
    parts, aliases = encode_tensors(checkpoint.tensors)
    sidecar = _encode_sidecar(checkpoint, parts, aliases)
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
    data = _read_buffer(tensors_path)
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
    write_atomic(sidecar_path, _encoded(sidecar | {"metadata": sidecar["metadata"] | values}))


def read_sidecar(path: Path) -> dict[str, Any]:
    """Read a sidecar and verify its own checksum and fields; the tensors are not looked at. Raises CheckpointError."""
    sidecar = parse_object(bytes(_read_buffer(path, MOST_BYTES)), path)
    if sidecar.get("schema") != SCHEMA_VERSION:
        raise CheckpointError(
            f"{path} has schema {str(sidecar.get('schema'))[:40]}; this version of esper reads {SCHEMA_VERSION}. "
            "Load it with the version that wrote it."
        )
    checksum = sidecar.pop(_SELF_CHECK, None)
    try:
        actual = fingerprint(sidecar)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is altered: it holds what JSON cannot ({error}).") from error
    if checksum != actual:
        raise CheckpointError(f"{path} is altered: its content does not match its own checksum ({_SELF_CHECK}).")
    for name, kind in _FIELDS.items():
        if not isinstance(sidecar.get(name, ...), kind):
            raise CheckpointError(f"{path}: the field {name!r} is missing or of the wrong type.")
    if not all(isinstance(name, str) for name in sidecar["aliases"].values()):
        raise CheckpointError(f"{path}: the field 'aliases' maps names to names.")
    return sidecar


def _encode_sidecar(checkpoint: Checkpoint, parts: Sequence[bytes | memoryview], aliases: dict[str, str]) -> bytes:
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
    return _encoded(content)


def _encoded(content: dict[str, Any]) -> bytes:
    """A sidecar's fields as its file, with the checksum over them."""
    content = content | {_SELF_CHECK: fingerprint(content)}
    # One line a field: people can read it, and a megabyte of growth log is still encoded in milliseconds.
    lines = ",\n".join(f'"{name}": {to_json(value)}' for name, value in content.items())
    encoded = f"{{\n{lines}\n}}\n".encode()
    if len(encoded) > MOST_BYTES:
        raise CheckpointError(f"A sidecar of {len(encoded):,} bytes cannot be read back; at most {MOST_BYTES:,} are.")
    return encoded


def _settle(tensors_path: Path, sidecar_path: Path) -> None:
    """Finish the work of a writer that was killed after its tensors were in place and before its sidecar was."""
    pending = pending_path(sidecar_path)
    with contextlib.suppress(CheckpointError, FileNotFoundError):
        if read_sidecar(pending)["tensors_sha256"] == hashlib.sha256(_read_buffer(tensors_path)).hexdigest():
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


def _read_buffer(path: Path, most_bytes: int = _MEMORY_BYTES) -> memoryview:
    """The bytes of a file, in writable memory of their own."""
    try:
        with open_to_read(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > most_bytes:
                raise CheckpointError(f"{path} is altered: it has {size:,} bytes, and at most {most_bytes:,} are read.")
            # NumPy asks for huge pages, without which the system spends longer on pages than on the copy.
            buffer = np.empty(size, np.uint8).data
            filled = 0
            while filled < len(buffer) and (count := file.readinto(buffer[filled:])):
                filled += count
        return buffer[:filled]
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is missing. A checkpoint is a .safetensors and a .json of the same name, in the same folder."
        ) from error
    except (OSError, MemoryError, ValueError) as error:  # a name can hold what no file's may
        reason = getattr(error, "strerror", None) or str(error) or "there is not enough memory"
        raise CheckpointError(f"{path} cannot be read: {reason}.") from error

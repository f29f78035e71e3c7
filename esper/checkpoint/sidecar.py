"""A checkpoint's sidecar: plain JSON values, a line a field, under a checksum of their own."""

from pathlib import Path
from typing import Any

from esper.checkpoint.buffers import read_buffer
from esper.checkpoint.plain import fingerprint, parse_object, to_json
from esper.errors import CheckpointError
from esper.files.reading import MOST_BYTES

SCHEMA_VERSION = 1
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


def pending_path(sidecar_path: Path) -> Path:
    """Where the new sidecar waits while an existing checkpoint is overwritten."""
    return sidecar_path.with_name(f"{sidecar_path.name}.new")


def read_sidecar(path: Path) -> dict[str, Any]:
    """Read a sidecar and verify its own checksum and fields; the tensors are not looked at. Raises CheckpointError."""
    sidecar = parse_object(bytes(read_buffer(path, MOST_BYTES)), path)
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


def encode_sidecar(content: dict[str, Any]) -> bytes:
    """A sidecar's fields as its file, with the checksum over them."""
    content = content | {_SELF_CHECK: fingerprint(content)}
    # One line a field: people can read it, and a megabyte of growth log is still encoded in milliseconds.
    lines = ",\n".join(f'"{name}": {to_json(value)}' for name, value in content.items())
    encoded = f"{{\n{lines}\n}}\n".encode()
    if len(encoded) > MOST_BYTES:
        raise CheckpointError(f"A sidecar of {len(encoded):,} bytes cannot be read back; at most {MOST_BYTES:,} are.")
    return encoded

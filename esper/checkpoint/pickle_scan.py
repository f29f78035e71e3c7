"""What the pickle in a torch file asks for, read without making any of it."""

import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch

from esper.checkpoint.pickle_machine import Global, Key, PickleMachine, StandIn
from esper.errors import CheckpointError

_ZIP_START = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class Scan(NamedTuple):
    """`layout` is "zip", "legacy" or "pickle" (one that torch did not write); `unsafe` in the order of appearance.

    `called`: those of them that the file calls, whether it keeps what comes of it or not.
    """

    layout: str
    root: Any
    unsafe: list[str]
    called: list[Global]


def scan_file(path: Path) -> Scan:
    """Read the structure of a torch file. Raises CheckpointError where it is none, or is malformed."""
    known: dict[str, Global] = {}
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder: name a torch file in it.")
    if path.suffix == ".safetensors" and path.is_file():
        raise CheckpointError(
            f"{path} is a safetensors file, which runs nothing: read it with esper.checkpoint.load_checkpoint."
        )
    try:
        if is_zip(path):
            layout, root = "zip", PickleMachine(known).run(io.BytesIO(_zip_record(path)))
        else:
            with path.open("rb") as file:
                layout, root = _scan_sequence(file, known)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, TypeError, LookupError, OverflowError, MemoryError, RuntimeError) as error:
        unsafe = _mark_unsafe(known)
        named = f" What could be read names {', '.join(unsafe)}: do not load it." if unsafe else ""
        reason = "malformed pickle" if isinstance(error, LookupError) else " ".join(str(error).split()).split(". ")[0]
        raise CheckpointError(f"{path} is not a sound torch checkpoint: {reason.rstrip('.')}.{named}") from error
    unsafe = _mark_unsafe(known)
    return Scan(layout, root, unsafe, [known[name] for name in unsafe if known[name].is_called])


def is_zip(path: Path) -> bool:
    """Whether torch takes the file for one of the zip layout: it looks at the first bytes only."""
    with path.open("rb") as file:
        return file.read(len(_ZIP_START)) == _ZIP_START


def _scan_sequence(file: IO[bytes], known: dict[str, Global]) -> tuple[str, Any]:
    first = PickleMachine(known).run(file)
    if type(first) is not int or first != _LEGACY_MAGIC:
        return "pickle", first
    _protocol, _system, root, _storages = (PickleMachine(known).run(file) for _ in range(4))
    return "legacy", root


def _zip_record(path: Path) -> bytes:
    reader = torch._C.PyTorchFileReader(str(path))  # torch.load's own: another might see another file in the same bytes
    if "constants.pkl" in reader.get_all_records():
        raise ValueError("it is a TorchScript archive; export the module's state_dict() with torch.save")
    return bytes(reader.get_record("data.pkl"))


def _mark_unsafe(known: dict[str, Global]) -> list[str]:
    """The names that torch.load(weights_only=True) refuses; marks the others as safe."""
    # torch tells what it allows only of a file, so it is handed one that holds nothing but the names.
    plain = [each for name, each in known.items() if name.isascii() and name.isprintable() and " " not in name]
    data = b"\x80\x02" + "".join(f"c{each.module}\n{each.qualname}\n" for each in plain).encode() + b"."
    buffer = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(buffer)
    writer.write_record("data.pkl", data, len(data))
    writer.write_end_of_file()
    buffer.seek(0)
    refused = set(torch.serialization.get_unsafe_globals_in_checkpoint(buffer))
    for each in plain:
        each.is_safe = each.name not in refused
    return [name for name, each in known.items() if not each.is_safe]


def entries(value: Any) -> Iterator[tuple[Any, Any]] | None:
    """The keys and values of a dictionary or of what stands for one; None for anything else."""
    if isinstance(value, dict):
        return ((key.value if isinstance(key, Key) else key, item) for key, item in value.items())
    if isinstance(value, StandIn) and value.what.name in ("collections.OrderedDict", "collections.Counter"):
        given = next(iter(value.args), None)  # a Counter is made of a dictionary, not filled
        return itertools.chain(entries(given) or () if isinstance(given, dict) else (), value.pairs)
    return None

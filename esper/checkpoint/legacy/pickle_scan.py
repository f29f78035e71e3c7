"""What the pickle in a torch file asks for, read without making any of it."""

import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from esper.checkpoint.legacy.file_kind import FileLayout, file_layout, text_kind
from esper.checkpoint.legacy.pickle_machine import Global, Key, PickleMachine, StandIn
from esper.errors import CheckpointError
from esper.printing import printable

_ONLY_TRUSTED = {
    FileLayout.TORCHSCRIPT: "a TorchScript archive: export the module's state_dict() with torch.save",
    FileLayout.TAR: "a torch file of the tar layout, the first that torch had, which no weights-only load reads",
}


class Scan(NamedTuple):
    """`layout` is ZIP, LEGACY or PICKLE (of another program); `unsafe` in the order of appearance.

    `called`: those of them that the file calls, whether it keeps what comes of it or not. `protocol`: the pickle's.
    """

    layout: FileLayout
    protocol: int
    root: Any
    unsafe: list[str]
    called: list[Global]


def scan_file(path: Path) -> Scan:
    """Read the structure of a torch file. Raises CheckpointError where it is none, or is malformed."""
    known: dict[str, Global] = {}
    machine = PickleMachine(known)
    layout = file_layout(path)
    if layout in _ONLY_TRUSTED:
        raise CheckpointError(
            f"{printable(str(path))} is {_ONLY_TRUSTED[layout]}. esper convert --trust reads it, and runs whatever it "
            "holds: only for a file that you made yourself."
        )
    try:
        root = _root(path, layout, machine)
    except OSError as error:
        raise CheckpointError(f"{printable(str(path))} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # of many kinds, whatever the file holds
        unsafe = _mark_unsafe(known)
        named = f" What could be read names {', '.join(unsafe)}: do not load it." if unsafe else ""
        reason = _reason(path, layout, error)
        raise CheckpointError(f"{printable(str(path))} is not a sound torch checkpoint: {reason}.{named}") from error
    unsafe = _mark_unsafe(known)
    return Scan(layout, machine.protocol, root, unsafe, [known[name] for name in unsafe if known[name].is_called])


def _root(path: Path, layout: FileLayout, machine: PickleMachine) -> Any:
    """What the file's main pickle holds."""
    with path.open("rb") as file:
        if layout is FileLayout.ZIP:
            import torch  # here and below, so that what is no torch file at all is told without loading it

            reader = torch._C.PyTorchFileReader(file)  # torch.load's own: another might see another file in the bytes
            return machine.run(io.BytesIO(bytes(reader.get_record("data.pkl"))))
        if layout is FileLayout.PICKLE:
            return machine.run(file)
        machine.run(file)  # the magic number; the version, the system, the content and the storages are to follow
        _version, _system, root, _storages = (PickleMachine(machine.known).run(file) for _ in range(4))
        return root


def _reason(path: Path, layout: FileLayout, error: Exception) -> str:
    """Why a file's pickle cannot be followed, in words."""
    if layout is FileLayout.PICKLE and (what := text_kind(path)):
        return f"it is {what}"
    said = printable(" ".join(str(error).split()).split(". ")[0].rstrip("."))
    if said.startswith("its pickle "):
        return said
    if said.startswith("at position 0, opcode"):
        return "it is neither a zip archive nor a pickle"
    is_told = isinstance(error, ValueError) and not isinstance(error, UnicodeError)
    return f"its pickle is damaged or cut short{f' ({said})' if is_told else ''}"


def _mark_unsafe(known: dict[str, Global]) -> list[str]:
    """The names that torch.load(weights_only=True) refuses; marks the others as safe."""
    if not known:
        return []
    import torch

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

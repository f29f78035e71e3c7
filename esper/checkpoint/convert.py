"""Torch files and esper's: `.pt` → `.safetensors` + `.json`, and plain values → `.pt`."""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from esper.checkpoint.audit import LAST_PROTOCOL, load_refusal, load_torch, newer_pickle, plain_pickle
from esper.checkpoint.bundle import Checkpoint, bundle_paths, write_bundle
from esper.checkpoint.legacy.file_kind import FileLayout, file_layout
from esper.checkpoint.legacy.pickle_scan import Scan, scan_file
from esper.checkpoint.legacy.plain_form import PlainForm, kind
from esper.checkpoint.legacy.value_audit import audit_value
from esper.checkpoint.model import restore_module
from esper.checkpoint.plain import check_plain
from esper.checkpoint.sources import SUFFIXES, find_files
from esper.checkpoint.tensors import storable
from esper.errors import CheckpointError
from esper.files import write_atomic
from esper.printing import printable

_MODEL_KEYS = ("model_state_dict", "state_dict", "model")
_REST = ".rest"
_EXTRA_STATE = "_extra_state"
_MAX_PROBLEMS = 20
_MAX_GLOBALS = 5


def migrate_torch_checkpoint(
    torch_path: str | os.PathLike[str],
    output_path: str | os.PathLike[str],
    model: nn.Module | None = None,
    *,
    trust: bool = False,
) -> Path:
    """Write what a torch file holds as `.safetensors` + `.json`, and return the path of the tensors.

    `model_state_dict`, `state_dict`, `model` or a bare state dict become the tensors, so that `load_checkpoint` takes
    them. Everything else goes under its own name to the sidecar's `metadata`, as plain values (tuple and set → list,
    integer key → text, date → ISO 8601, path → text, Enum → its value, dataclass → dict); `epoch` becomes the
    checkpoint's too. A tensor or array in there is written `{"tensor": NAME}` and kept in `<name>.rest.safetensors`, or
    with the others if there is no model.

    A number that is not finite is written `{"float": "inf"}` ("-inf", "nan"), and is a number again when read.

    With a `model`, its names, shapes and dtypes must be the file's, and it is given the weights.
    `trust` lets the file run whatever it holds: for files that you made yourself. The source is only ever read.
    Raises CheckpointError naming what cannot be represented; nothing is written then.
    """
    source = Path(torch_path)
    payload = read_torch(source, trust=trust)
    try:
        main, rest = _parts(payload)
        if model is not None:
            restore_module(model, main)
        return _write(output_path, main, rest)
    except (Exception, SystemExit) as error:  # of many kinds: a trusted file's objects run their own code here
        reason = str(error) if isinstance(error, CheckpointError) else load_refusal(error)
        raise CheckpointError(f"{printable(str(source))} cannot be converted: {reason}") from error


def convert_all(
    sources: Sequence[Path], folder: Path, *, trust: bool = False
) -> Iterator[tuple[Path, Path | CheckpointError]]:
    """Convert files and whole trees into a folder, trees with their inner folders: each source, and where it went.

    What cannot be converted, whatever the reason, is answered with the error, and the others go on; nothing is ever
    overwritten. Raises CheckpointError before anything is written when `folder` is a file.
    """
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise CheckpointError(
            f"{printable(str(folder))} is a file: the last argument is the folder that the converted files go to."
        )
    taken: dict[Path, Path] = {}
    for source in sources:
        for file, inner in find_files(source):
            if isinstance(inner, CheckpointError):
                yield file, inner
                continue
            try:
                target = _target(file, folder / inner, taken)
                yield file, migrate_torch_checkpoint(file, target, trust=trust)
            except CheckpointError as error:
                yield file, error


def _target(file: Path, path: Path, taken: dict[Path, Path]) -> Path:
    """Where a file's tensors go, which nothing may have already."""
    name = path.stem if path.suffix in SUFFIXES else path.name
    target = path.with_name(f"{name}.safetensors")
    shown = printable(str(file))
    if name.endswith(_REST):
        raise CheckpointError(f"{shown}: names ending in {_REST} are kept for what is beside a model. Rename it.")
    if (earlier := taken.setdefault(target, file)) is not file:
        raise CheckpointError(
            f"{shown} would become {printable(str(target))}, as {printable(earlier.name)} does. Convert it to another "
            "folder."
        )
    rest = target.with_name(f"{name}{_REST}.safetensors")
    if there := [each for each in (*bundle_paths(target), *bundle_paths(rest)) if os.path.lexists(each)]:
        raise CheckpointError(
            f"{shown} is not converted: {printable(str(there[0]))} exists already. Remove it, or name another folder."
        )
    return target


def write_torch(payload: Any, path: str | os.PathLike[str], *, must_be_plain: bool = True) -> Path:
    """Write a torch file, durably, that `torch.load(path, weights_only=True)` accepts, and return its path.

    Raises CheckpointError naming the first value that such a load refuses; nothing is written then. Only examples of
    what not to store are written without `must_be_plain`.
    """
    if must_be_plain and (issues := audit_value(payload)):
        more = f" (and {len(issues) - 1} more)" if len(issues) > 1 else ""
        raise CheckpointError(f"{path} is not written, since a weights-only load would refuse {issues[0]}{more}.")
    buffer = io.BytesIO()
    torch.save(payload, buffer)
    write_atomic(Path(path), buffer.getvalue())
    return Path(path)


def read_torch(path: str | os.PathLike[str], *, trust: bool = False) -> Any:
    """What a torch file holds, on the CPU; `trust` lets the file run whatever it holds. Raises CheckpointError."""
    path = Path(path)
    shown = printable(str(path))
    layout = file_layout(path)
    if layout is FileLayout.PICKLE:  # trusted or not: torch would run it, and then find that it is none of its own
        scan = scan_file(path)
        raise CheckpointError(
            f"{'; '.join([f'{shown} is {plain_pickle(scan.protocol)}', *_asked_for(scan)])}. "
            "If you made it: load it with the program that did, and torch.save a dictionary of its tensors."
        )
    if not trust:
        scan = scan_file(path)
        newer = [newer_pickle(scan.protocol)] if scan.protocol > LAST_PROTOCOL else []
        if objections := newer + _asked_for(scan):
            raise CheckpointError(
                f"{shown} is not loaded: {'; '.join(objections)}.\n"
                "esper audit shows more; --trust runs whatever the file holds: only for a file that you made yourself."
            )
    try:
        return load_torch(path, layout, weights_only=not trust)
    except (Exception, SystemExit) as error:  # whatever the file's own code raises, too
        hint = "; put the folder of that module on PYTHONPATH" if isinstance(error, ModuleNotFoundError) else ""
        raise CheckpointError(f"{shown} cannot be loaded: {load_refusal(error)}{hint}") from error


def _parts(payload: Any) -> tuple[Checkpoint, Checkpoint | None]:
    """What becomes of a file's content: the checkpoint, and tensors that go beside it. Raises CheckpointError."""
    state, others = _split(payload)
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    beside, rest = PlainForm(), PlainForm(tensors={})
    extra = {name: beside.convert(value, name) for name, value in state.items() if name not in tensors}
    metadata = rest.convert(others)
    if problems := beside.problems + rest.problems:
        more = f"; and {len(problems) - _MAX_PROBLEMS} more" if len(problems) > _MAX_PROBLEMS else ""
        raise CheckpointError("; ".join(problems[:_MAX_PROBLEMS]) + f"{more}.")
    epoch = metadata.get("epoch")
    main = Checkpoint(
        tensors=tensors if state else rest.tensors or {},
        kind="torch",
        epoch=epoch if type(epoch) is int and epoch >= 0 else None,
        state=extra,
        metadata=metadata,
    )
    return main, Checkpoint(tensors=rest.tensors, kind="torch_rest") if state and rest.tensors else None


def _write(path: str | os.PathLike[str], main: Checkpoint, rest: Checkpoint | None) -> Path:
    """Write both or neither, and return the path of the tensors."""
    if rest is None:
        return write_bundle(path, main)
    check_plain(main.state, "state")
    check_plain(main.metadata, "metadata")
    for name, tensor in (*main.tensors.items(), *rest.tensors.items()):
        storable(name, tensor)
    beside = Path(path).with_name(f"{bundle_paths(path)[0].stem}{_REST}.safetensors")
    is_new = not beside.exists()
    write_bundle(beside, rest)
    try:
        return write_bundle(path, main)
    except CheckpointError:  # the disk is full
        for each in bundle_paths(beside) if is_new else ():
            each.unlink(missing_ok=True)
        raise


def _asked_for(scan: Scan) -> list[str]:
    shown = ", ".join(scan.unsafe[:_MAX_GLOBALS])
    return [f"it asks for {shown}{', ...' if len(scan.unsafe) > _MAX_GLOBALS else ''}"] if scan.unsafe else []


def _split(payload: Any) -> tuple[Mapping[str, Any], dict[Any, Any]]:
    """The model's state dict (empty when there is none), and everything else."""
    if isinstance(payload, nn.Module):
        return payload.state_dict(), {}
    if not isinstance(payload, Mapping):
        raise CheckpointError(f"it holds a {kind(payload)}; expected a dictionary.")
    for name in _MODEL_KEYS:
        state = payload.get(name)
        state = state.state_dict() if isinstance(state, nn.Module) else state
        if isinstance(state, Mapping) and any(isinstance(value, Tensor) for value in state.values()):
            return state, {key: value for key, value in payload.items() if key != name}
    is_bare = all(
        isinstance(value, Tensor) or (isinstance(name, str) and name.endswith(_EXTRA_STATE))
        for name, value in payload.items()
    )
    return (payload, {}) if is_bare else ({}, dict(payload))

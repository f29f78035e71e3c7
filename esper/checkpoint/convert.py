"""Torch files and esper's: `.pt` → `.safetensors` + `.json`, and plain values → `.pt`."""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from esper.checkpoint.audit import load_refusal
from esper.checkpoint.bundle import Checkpoint, bundle_paths, write_bundle
from esper.checkpoint.model import restore_module
from esper.checkpoint.pickle_scan import is_zip, scan_file
from esper.checkpoint.plain_form import PlainForm, kind
from esper.checkpoint.value_audit import audit_value
from esper.errors import CheckpointError
from esper.files import write_atomic

SUFFIXES = (".pt", ".pth", ".ckpt")
_MODEL_KEYS = ("model_state_dict", "state_dict", "model")
_REST = ".rest"
_EXTRA_STATE = "_extra_state"
_MAX_PROBLEMS = 20


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

    With a `model`, its names, shapes and dtypes must be the file's, and it is given the weights.
    `trust` lets the file run whatever it holds: for files that you made yourself. The source is only ever read.
    Raises CheckpointError naming what cannot be represented; nothing is written then.
    """
    source = Path(torch_path)
    payload = read_torch(source, trust=trust)
    try:
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
        if model is not None:
            restore_module(model, main)
        if state and rest.tensors:
            name = bundle_paths(output_path)[0].stem
            write_bundle(
                Path(output_path).with_name(f"{name}{_REST}.safetensors"),
                Checkpoint(tensors=rest.tensors, kind="torch_rest"),
            )
        return write_bundle(output_path, main)
    except CheckpointError as error:
        raise CheckpointError(f"{source} cannot be converted: {error}") from error


def convert_all(
    sources: Sequence[Path], folder: Path, *, trust: bool = False
) -> Iterator[tuple[Path, Path | CheckpointError]]:
    """Convert files and whole trees into a folder, trees with their inner folders: each source, and where it went.

    A file that cannot be converted is answered with the error, and the others go on. Raises CheckpointError before
    anything is written when a source is missing, two would get one name, or a checkpoint of that name is there.
    """
    targets: dict[Path, Path] = {}
    for source in sources:
        found = _files_in(source) if source.is_dir() else [source]
        if not source.exists() or not found:
            raise CheckpointError(
                f"{source}: expected a torch file, or a folder with {', '.join(SUFFIXES)} files in it."
            )
        for file in found:
            inner = file.relative_to(source) if source.is_dir() else Path(file.name)
            name = file.stem if file.suffix in SUFFIXES else file.name
            target = folder / inner.with_name(f"{name}.safetensors")
            if name.endswith(_REST):
                raise CheckpointError(
                    f"{file}: names ending in {_REST} are kept for what is beside a model. Rename it."
                )
            if target in targets:
                raise CheckpointError(f"{targets[target]} and {file} would both become {target}. Convert them apart.")
            if target.exists() or bundle_paths(target)[1].exists():
                raise CheckpointError(f"{target} exists already. Remove it, or name another folder.")
            targets[target] = file
    for target, file in targets.items():
        try:
            yield file, migrate_torch_checkpoint(file, target, trust=trust)
        except CheckpointError as error:
            yield file, error


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
    if not path.is_file():
        raise CheckpointError(f"{path} cannot be read: there is no such file.")
    if path.suffix == ".safetensors":
        raise CheckpointError(f"{path} is a safetensors file already: read it with esper.checkpoint.load_checkpoint.")
    unsafe = [] if trust else scan_file(path).unsafe
    if unsafe:
        raise CheckpointError(
            f"{path} is not loaded: it asks for {', '.join(unsafe[:5])}{', ...' if len(unsafe) > 5 else ''}.\n"
            "esper audit shows where; --trust runs whatever the file holds, so only for a file that you made yourself."
        )
    try:
        # Mapped, a large file costs no memory; the layout before zip files cannot be.
        return torch.load(path, map_location="cpu", weights_only=not trust, mmap=is_zip(path))
    except Exception as error:  # whatever the file's own code raises, too
        hint = "; put the folder of that module on PYTHONPATH" if isinstance(error, ModuleNotFoundError) else ""
        raise CheckpointError(f"{path} cannot be loaded: {load_refusal(error)}{hint}") from error


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


def _files_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix in SUFFIXES and file.is_file())

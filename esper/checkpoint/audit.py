"""What keeps a torch file from being loaded with weights_only=True. Nothing that the file asks for is run."""

import os
import platform
import warnings
from pathlib import Path
from typing import Any

import torch

from esper.checkpoint.legacy.file_kind import FileLayout
from esper.checkpoint.legacy.pickle_machine import Global, StandIn
from esper.checkpoint.legacy.pickle_scan import Scan, entries, scan_file
from esper.checkpoint.legacy.value_audit import audit_value, verdict_of_call
from esper.checkpoint.plain import is_unicode
from esper.printing import printable

__all__ = ["audit_checkpoint", "audit_value", "format_audit", "get_environment_info", "iterative_audit"]

SUCCESS = "SUCCESS - checkpoint is already compatible!"
FAILED = "FAILED: "
LAST_PROTOCOL = 3  # that torch.load(weights_only=True) reads
_OPTIMIZER = "optim"
_REASON = "WeightsUnpickler error: "
_SPELLED = {"pytorch": "PyTorch", "cuda": "CUDA", "python": "Python"}


def get_environment_info() -> dict[str, str]:
    """The versions that decide what loads: pytorch, cuda, python, platform."""
    return {
        "pytorch": str(torch.__version__),
        "cuda": f"{torch.version.cuda or 'not built in'} (available: {torch.cuda.is_available()})",
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def audit_checkpoint(path: str | os.PathLike[str], include_optimizer: bool = True) -> dict[str, Any]:
    """Audit a torch file of the zip or the legacy layout, or a pickle, without running anything in it.

    Returns plain values: `path`; `layout` ("zip", "legacy", or "pickle" for one that torch did not write); `protocol`,
    the pickle's (0 stands for 0 and 1, which do not tell); `environment`; `compatible`; `weights_only`, the result in
    words, and `error`; `unsafe_globals`; `issues` and `optimizer_issues`, lines of `audit_value`; `structure`, what is
    at each key of the top level.
    Raises CheckpointError where the file is no torch file, or malformed.
    """
    source = Path(path)
    scan = scan_file(source)
    error = _load_error(source, scan)
    pairs = entries(scan.root)
    top = {"root": scan.root} if pairs is None else {_shown(key): value for key, value in pairs}
    issues = audit_value(scan.root)
    # What a call returns may be thrown away, and is no value then.
    issues += [
        f"the pickle itself: {verdict}"
        for verdict in map(verdict_of_call, scan.called)
        if verdict and not any(verdict.partition(" →")[0] in line for line in issues)
    ]
    optimizer = tuple(f"root[{key!r}]" for key in top if _OPTIMIZER in key.lower())
    return {
        "path": str(source),
        "layout": scan.layout.value,
        "protocol": scan.protocol,
        "environment": get_environment_info(),
        "compatible": error is None,
        "weights_only": SUCCESS if error is None else FAILED + error,
        "error": error,
        "unsafe_globals": scan.unsafe,
        "issues": [line for line in issues if not line.startswith(optimizer)],
        "optimizer_issues": [line for line in issues if line.startswith(optimizer) and include_optimizer],
        "structure": {key: _describe(value) for key, value in top.items()},
    }


def iterative_audit(path: str | os.PathLike[str]) -> list[str]:
    """All globals that torch.load(weights_only=True) refuses, not just the first, in the order of appearance.

    Raises CheckpointError where the file is no torch file, or malformed.
    """
    return scan_file(Path(path)).unsafe


def format_audit(audit: dict[str, Any]) -> str:
    """An audit as people read it, a section a topic."""
    environment = [f"{_SPELLED.get(name, name)}: {value}" for name, value in audit["environment"].items()]
    structure = [f"{key}: {what}" for key, what in audit["structure"].items()]
    sections = {
        "Environment": environment,
        "weights_only=True": [audit["weights_only"]],
        "Contents": audit["issues"] or ["nothing to convert"],
        "Optimizer": audit["optimizer_issues"] or ["nothing to convert"],
        "Top-level structure": structure or ["empty"],
    }
    parts = [f"{title}\n" + "\n".join(f"  {line}" for line in lines) for title, lines in sections.items()]
    is_plain_pickle = audit["layout"] == FileLayout.PICKLE.value
    kind = plain_pickle(audit["protocol"]) if is_plain_pickle else f"{audit['layout']} layout"
    return "\n\n".join([f"Audit of {printable(audit['path'])} ({kind})", *parts])


def load_refusal(error: BaseException) -> str:
    """What torch.load says against a file, in one line and without its advice to load it all the same."""
    name = type(error).__name__
    lines = [line for line in str(error).splitlines() if line.strip() and "Check the documentation" not in line]
    lines = lines or [name]
    # The reason is marked, or comes last, after the advice.
    said = lines[-1 if lines[0].startswith("Weights only load failed") else 0]
    said = next((line.partition(_REASON)[2] for line in lines if _REASON in line), said)
    return f"{name}: {printable(said.partition(' Please ')[0].strip())}"


def load_torch(path: Path, layout: FileLayout, *, weights_only: bool = True) -> Any:
    """What a torch file of this layout holds, on the CPU. Raises whatever torch does, or the file's own code."""
    # Mapped, a large file costs no memory. torch maps only zip files, opens none whose name is no text, and believes a
    # name that says safetensors.
    is_mapped = layout is FileLayout.ZIP and is_unicode(str(path)) and path.suffix != ".safetensors"
    with warnings.catch_warnings(), path.open("rb") as file:
        warnings.simplefilter("ignore")
        source = path if is_mapped else file
        return torch.load(source, map_location="cpu", weights_only=weights_only, mmap=is_mapped)


def plain_pickle(protocol: int) -> str:
    """A pickle of another program, in words."""
    return f"a plain pickle of protocol {protocol or '0 or 1'}, not written by torch.save"


def newer_pickle(protocol: int) -> str:
    """Why a weights-only load does not even begin to read a file, in words."""
    return f"its pickle is of protocol {protocol}, and such a load knows none after {LAST_PROTOCOL}"


def _load_error(path: Path, scan: Scan) -> str | None:
    """What torch.load(weights_only=True) says against the file, without its advice; None when it loads."""
    if scan.layout is FileLayout.PICKLE:
        return f"{plain_pickle(scan.protocol)}, which torch.load cannot read"
    if scan.protocol > LAST_PROTOCOL:
        return f"UnpicklingError: {newer_pickle(scan.protocol)}"
    try:
        load_torch(path, scan.layout)
    except Exception as error:  # of many kinds, whatever the file holds
        return load_refusal(error)
    return None


def _shown(key: Any) -> str:
    return printable(str(key)) if isinstance(key, str | int | float) else _describe(key)


def _describe(value: Any) -> str:
    """What a value is, in a few words, from the outside."""
    if (pairs := entries(value)) is not None:
        name = value.what.qualname if isinstance(value, StandIn) else "dict"
        return f"{name} of {len(list(pairs))}"
    if isinstance(value, Global):
        return value.name
    if isinstance(value, StandIn):
        is_tensor = value.what.module == "torch._utils" and value.what.qualname.startswith("_rebuild")
        return "Tensor" if is_tensor else value.what.name
    if isinstance(value, list | tuple):
        return f"{type(value).__name__} of {len(value)}"
    return "None" if value is None else type(value).__name__

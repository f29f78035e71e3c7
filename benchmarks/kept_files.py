"""Files of tensors, written and read: checkpoints beside the plain way, ours beside the safetensors library."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from esper.checkpoint import Checkpoint, read_bundle, write_bundle
from esper.checkpoint.bundle import bundle_paths
from esper.checkpoint.tensors import decode_tensors, encode_tensors

CHECKPOINT_TENSORS = 120  # of a mebibyte each

Ways = dict[str, Callable[[], object]]


def write_raw(paths: tuple[Path, Path], contents: list[bytes]) -> None:
    """The files of a checkpoint with its number of fsyncs, and nothing else."""
    for path, content in zip(paths, contents, strict=True):
        with open(path, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def checkpoint_case(folder: Path) -> Ways:
    """Saving and loading, each beside the plain way, and the hash that both include."""
    state = tensors_to_keep()
    checkpoint = Checkpoint(tensors=state)
    write_bundle(folder / "kept", checkpoint)
    torch.save(state, folder / "kept.pt")
    contents = [path.read_bytes() for path in bundle_paths(folder / "kept")]
    saved, raw = bundle_paths(folder / "saved"), (folder / "raw.1", folder / "raw.2")

    def afresh(paths: tuple[Path, Path], write: Callable[[], object]) -> Callable[[], object]:
        def run() -> None:
            write()
            for path in paths:
                path.unlink()

        return run

    return {
        "raw write": afresh(raw, lambda: write_raw(raw, contents)),
        "save": afresh(saved, lambda: write_bundle(folder / "saved", checkpoint)),
        "torch.load": lambda: torch.load(folder / "kept.pt"),
        "load": lambda: read_bundle(folder / "kept"),
        "sha256": lambda: hashlib.sha256(contents[0]).digest(),
    }


def safetensors_case(folder: Path) -> Ways:
    """A file of tensors written and read by us and by the safetensors library: no hash, no fsync, no sidecar.

    The library maps a file into memory, so that tensors are read when they are used; a checkpoint's must not depend on
    its file any more, and a checksum reads every byte, so they are also compared as copies.
    """
    state = tensors_to_keep()
    kept = folder / "kept.safetensors"
    save_file(state, kept)

    def write() -> None:
        (folder / "ours.safetensors").unlink(missing_ok=True)
        parts, _ = encode_tensors(state)
        with open(folder / "ours.safetensors", "wb") as file:
            file.writelines(parts)

    def read() -> dict[str, Tensor]:
        with open(kept, "rb") as file:
            buffer = np.empty(kept.stat().st_size, np.uint8).data
            file.readinto(buffer)
        return decode_tensors(buffer, {}, str(kept))

    def save() -> None:
        (folder / "theirs.safetensors").unlink(missing_ok=True)
        save_file(state, folder / "theirs.safetensors")

    return {
        "save_file": save,
        "our write": write,
        "load_file, mapped": lambda: load_file(kept),
        "load_file, copied": lambda: {name: tensor.clone() for name, tensor in load_file(kept).items()},
        "our read": read,
    }


def tensors_to_keep() -> dict[str, Tensor]:
    """Those of a large checkpoint."""
    generator = torch.Generator().manual_seed(0)
    return {f"layer{i}.weight": torch.randn(256, 1024, generator=generator) for i in range(CHECKPOINT_TENSORS)}

"""The standard library's own source text: every Python installation carries it, so nothing is downloaded."""

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import torch

from esper.errors import TaskError
from esper.tasks.settings import TASKS, PysourceConfig
from esper.tasks.task import Task
from esper.tasks.text.windows import build_windows_task

FILE_BYTES = 4096  # at most so many of one file, so that every split is a mixture
_SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "encodings"}  # last: tables


def list_sources(root: Path) -> list[Path]:
    """The .py files below a folder, relative to it, alphabetically; tests, tables, installed packages aside."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _SKIPPED]
        found += [(Path(folder) / name).relative_to(root) for name in names if name.endswith(".py")]
    return sorted(found, key=Path.as_posix)


def read_splits(settings: PysourceConfig, split_seed: int, root: Path) -> tuple[bytes, bytes, bytes]:
    """Training, validation and test text, no file in two of them.

    Files are taken in an order fixed by their names and `split_seed`: for test, then validation, then training.

    Raises:
        TaskError: the files do not suffice, or one cannot be read.
    """

    def place(path: Path) -> bytes:
        return hashlib.sha256(f"{split_seed}/{path.as_posix()}".encode()).digest()

    heads = _heads(root, sorted(list_sources(root), key=place))
    test, val, train = (
        _take(heads, getattr(settings, key), f"task.{key}", root) for key in ("test_bytes", "val_bytes", "train_bytes")
    )
    return train, val, test


def _heads(root: Path, paths: list[Path]) -> Iterator[bytes]:
    for path in paths:
        try:
            with (root / path).open("rb") as file:
                yield file.read(FILE_BYTES)
        except OSError as error:
            raise TaskError(
                f"task=pysource: cannot read {root / path} ({error.strerror}); use another task."
            ) from error


def _take(heads: Iterator[bytes], size: int, key: str, root: Path) -> bytes:
    text = bytearray()
    for head in heads:
        text += head
        if len(text) >= size:
            return bytes(text[:size])
    raise TaskError(
        f"{key}={size}: the Python sources in {root} leave {len(text)} bytes for it; lower it, or use another task."
    )


@TASKS.register("pysource", PysourceConfig)
def build_pysource(settings: PysourceConfig, device: torch.device, dtype: torch.dtype, split_seed: int) -> Task:
    """The standard library as a task: predict the next byte of Python source."""
    return build_windows_task(settings, read_splits(settings, split_seed, Path(sysconfig.get_path("stdlib"))), device)

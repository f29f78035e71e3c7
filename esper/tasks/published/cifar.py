"""CIFAR-10 and CIFAR-100 from their binary archives (Krizhevsky 2009): records of label and pixel bytes, no pickle."""

import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from esper.errors import TaskError
from esper.tasks.published.building import Labelled, build_published
from esper.tasks.published.download import fetch
from esper.tasks.settings import TASKS, Cifar10Config, Cifar100Config
from esper.tasks.task import Task

IMAGE_SHAPE = (3, 32, 32)
IMAGE_BYTES = 3 * 32 * 32


@dataclass(frozen=True, slots=True)
class Archive:
    """What is published. label_bytes: in front of an image, of which the last counts; records: at most, in one file."""

    name: str
    title: str
    train_files: tuple[str, ...]
    test_files: tuple[str, ...]
    num_classes: int
    label_bytes: int
    records: int

    @property
    def record_bytes(self) -> int:
        """Of one image and its labels."""
        return self.label_bytes + IMAGE_BYTES


CIFAR10 = Archive(
    name="cifar-10-binary.tar.gz",
    title="CIFAR-10",
    train_files=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    test_files=("test_batch.bin",),
    num_classes=10,
    label_bytes=1,
    records=10_000,
)
CIFAR100 = Archive(
    name="cifar-100-binary.tar.gz",
    title="CIFAR-100",
    train_files=("train.bin",),
    test_files=("test.bin",),
    num_classes=100,
    label_bytes=2,  # one of 20 superclasses, then the class
    records=50_000,
)


def read_archive(path: Path, archive: Archive) -> tuple[Labelled, Labelled]:
    """Both published parts, training then test, each as (images [N, 3, 32, 32] uint8, labels [N] int64).

    Raises:
        TaskError: a file is missing from the archive, or not made of whole records.
    """
    wanted = archive.train_files + archive.test_files
    again = f"Fetch it again with: rm {path}"
    try:
        with tarfile.open(path, "r:gz") as tar:
            found: dict[str, bytes] = {}
            for member in tar:
                name = Path(member.name).name
                if name not in wanted:
                    continue
                # A link would be followed, in a circle for instance, and a size is only claimed.
                if not member.isreg() or member.size > archive.records * archive.record_bytes:
                    what = f"of {member.size:,} bytes" if member.isreg() else "no plain file"
                    raise TaskError(f"{name} in {path} is {what}. {again}")
                if (file := tar.extractfile(member)) is not None:
                    found[name] = file.read()
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise TaskError(f"{path} cannot be read ({error}). {again}") from error
    if missing := [name for name in wanted if name not in found]:
        raise TaskError(
            f"{path} lacks {', '.join(missing)}: it is not the binary {archive.title}. Set task.url to that one."
        )
    for name, data in found.items():
        if not data or len(data) % archive.record_bytes:
            expected = f"expected a multiple of {archive.record_bytes}"
            raise TaskError(f"{name} in {path} holds {len(data)} bytes, {expected}. {again}")
    train, test = (
        _records(path, b"".join(found[name] for name in names), archive)
        for names in (archive.train_files, archive.test_files)
    )
    return train, test


def _records(path: Path, records: bytes, archive: Archive) -> Labelled:
    data = np.frombuffer(records, dtype=np.uint8).reshape(-1, archive.record_bytes)
    labels = torch.from_numpy(data[:, archive.label_bytes - 1].astype(np.int64))
    if int(labels.max()) >= archive.num_classes:
        raise TaskError(
            f"{path} holds label {int(labels.max())}, expected 0 to {archive.num_classes - 1}. "
            f"Fetch it again with: rm {path}"
        )
    return torch.from_numpy(data[:, archive.label_bytes :].copy()).view(-1, *IMAGE_SHAPE), labels


def _build(
    settings: Cifar10Config, archive: Archive, device: torch.device, dtype: torch.dtype, split_seed: int
) -> Task:
    path = fetch(settings.url, settings.md5, settings.data_dir, archive.name, settings.name)
    train, test = read_archive(path, archive)
    return build_published(settings, train, test, archive.num_classes, device, dtype, split_seed, is_mirrored=True)


@TASKS.register("cifar10", Cifar10Config)
def build_cifar10(settings: Cifar10Config, device: torch.device, dtype: torch.dtype, split_seed: int) -> Task:
    """CIFAR-10 as a task: ten classes."""
    return _build(settings, CIFAR10, device, dtype, split_seed)


@TASKS.register("cifar100", Cifar100Config)
def build_cifar100(settings: Cifar100Config, device: torch.device, dtype: torch.dtype, split_seed: int) -> Task:
    """CIFAR-100 as a task: a hundred classes."""
    return _build(settings, CIFAR100, device, dtype, split_seed)

"""CIFAR-10 from its binary archive (Krizhevsky 2009): records of one label byte and 3,072 pixel bytes, no pickle."""

import hashlib
import http.client
import os
import shutil
import tarfile
import tempfile
import urllib.request
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from esper.errors import TaskError
from esper.printing import logger
from esper.tasks.distortion import shift_and_mirror
from esper.tasks.settings import CIFAR10_PIXELS, TASKS, Cifar10Config
from esper.tasks.splits import stratified_splits
from esper.tasks.task import Task, named_generator

ARCHIVE_NAME = "cifar-10-binary.tar.gz"
TRAIN_FILES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST_FILES = ("test_batch.bin",)
IMAGE_SHAPE = (3, CIFAR10_PIXELS, CIFAR10_PIXELS)
RECORD_BYTES = 1 + 3 * 32 * 32
MOST_FILE_BYTES = 10_000 * RECORD_BYTES  # as published
NUM_CLASSES = 10
FETCH_TIMEOUT_S = 30.0

log = logger(__name__)


def fetch_archive(settings: Cifar10Config) -> Path:
    """The archive's path in `data_dir`, downloaded first if it is not there.

    The download becomes visible under its name only once its checksum is right; a stored archive is checked every time.

    Raises:
        TaskError: it cannot be fetched, or is not the published archive.
    """
    archive = Path(settings.data_dir).expanduser() / ARCHIVE_NAME
    if not archive.exists():
        _download(settings, archive)
    elif (found := _md5(archive)) != settings.md5:
        raise TaskError(
            f"{archive} is altered or cut short: its MD5 is {found}, expected {settings.md5}. "
            f"Fetch it again with: rm {archive}"
        )
    return archive


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _download(settings: Cifar10Config, archive: Path) -> None:
    partial: Path | None = None
    log.info("fetching %s into %s", settings.url, archive.parent)
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        with (
            urllib.request.urlopen(settings.url, timeout=FETCH_TIMEOUT_S) as source,
            tempfile.NamedTemporaryFile(dir=archive.parent, prefix=ARCHIVE_NAME, delete=False) as target,
        ):
            partial = Path(target.name)
            shutil.copyfileobj(source, target)
        if (found := _md5(partial)) != settings.md5:
            raise TaskError(
                f"{settings.url} is not the expected archive: its MD5 is {found}, expected {settings.md5}. "
                "Set task.url to a sound copy."
            )
        os.replace(partial, archive)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise TaskError(
            f"task=cifar10: cannot fetch {settings.url} ({error}). Put {ARCHIVE_NAME} into {archive.parent} "
            "(key task.data_dir) yourself, or set task.url to a copy within reach."
        ) from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def read_archive(archive: Path) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Both published parts, training then test, each as (images [N, 3, 32, 32] uint8, labels [N] int64).

    Raises:
        TaskError: a file is missing from the archive, or not made of whole records.
    """
    try:
        with tarfile.open(archive, "r:gz") as tar:
            found: dict[str, bytes] = {}
            for member in tar:
                name = Path(member.name).name
                if name not in TRAIN_FILES + TEST_FILES:
                    continue
                # A link would be followed, in a circle for instance, and a size is only claimed.
                if not member.isreg() or member.size > MOST_FILE_BYTES:
                    what = f"of {member.size:,} bytes" if member.isreg() else "no plain file"
                    raise TaskError(f"{name} in {archive} is {what}. Fetch it again with: rm {archive}")
                if (file := tar.extractfile(member)) is not None:
                    found[name] = file.read()
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise TaskError(f"{archive} cannot be read ({error}). Fetch it again with: rm {archive}") from error
    missing = [name for name in TRAIN_FILES + TEST_FILES if name not in found]
    if missing:
        raise TaskError(
            f"{archive} lacks {', '.join(missing)}: it is not the binary CIFAR-10. Set task.url to that one."
        )
    return _records(archive, found, TRAIN_FILES), _records(archive, found, TEST_FILES)


def _records(archive: Path, found: dict[str, bytes], names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    for name in names:
        if not found[name] or len(found[name]) % RECORD_BYTES:
            raise TaskError(
                f"{name} in {archive} holds {len(found[name])} bytes, expected a multiple of {RECORD_BYTES}. "
                f"Fetch it again with: rm {archive}"
            )
    data = np.frombuffer(b"".join(found[name] for name in names), dtype=np.uint8).reshape(-1, RECORD_BYTES)
    labels = torch.from_numpy(data[:, 0].astype(np.int64))
    if int(labels.max()) >= NUM_CLASSES:
        raise TaskError(
            f"{archive} holds label {int(labels.max())}, expected 0 to 9. Fetch it again with: rm {archive}"
        )
    return torch.from_numpy(data[:, 1:].copy()).view(-1, *IMAGE_SHAPE), labels


def _channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread per channel, each [3, 1, 1] float64, exact without a float copy of uint8 images [N, 3, H, W]."""
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)]).double()
    value = torch.arange(256, dtype=torch.float64)
    mean = (counts * value).sum(1) / counts.sum(1)
    variance = (counts * value.square()).sum(1) / counts.sum(1) - mean.square()
    return mean.view(-1, 1, 1), variance.clamp_min(1e-12).sqrt().view(-1, 1, 1)


@TASKS.register("cifar10", Cifar10Config)
def build_cifar10(settings: Cifar10Config, device: torch.device, dtype: torch.dtype, split_seed: int) -> Task:
    """CIFAR-10 as a task: training images shifted and mirrored anew each epoch, evaluation images as published."""
    (images, labels), (test_images, test_labels) = read_archive(fetch_archive(settings))
    splits = stratified_splits(labels, settings.val_fraction, 0.0, named_generator(split_seed, "cifar10/splits"))
    train_x, train_y = images[splits.train], labels[splits.train].to(device)
    mean, spread = (value.to(device, dtype) for value in _channel_statistics(train_x))

    def standardise(source: Tensor) -> Tensor:
        return source.to(device, dtype).sub_(mean).div_(spread)

    distorted = settings.distortion != "none"
    train_x = train_x.to(device) if distorted else standardise(train_x)

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return standardise(shift_and_mirror(train_x, settings.shift_pixels, generator)), train_y

    return Task(
        name="cifar10",
        num_outputs=NUM_CLASSES,
        input_shape=IMAGE_SHAPE,
        train_x=train_x,
        train_y=train_y,
        val_x=standardise(images[splits.val]),
        val_y=labels[splits.val].to(device),
        test_x=standardise(test_images),
        test_y=test_labels.to(device),
        draw=draw if distorted else None,
    )

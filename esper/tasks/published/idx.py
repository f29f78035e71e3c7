"""MNIST (LeCun 1998) and Fashion-MNIST (Xiao 2017) from their IDX files: a head that gives the shape, then bytes."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from esper.errors import TaskError
from esper.tasks.published.building import Labelled, build_published
from esper.tasks.published.download import fetch
from esper.tasks.settings import TASKS, FashionMnistConfig, MnistConfig
from esper.tasks.settings.published import MNIST_PIXELS
from esper.tasks.task import Task

FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
NUM_CLASSES = 10
MOST_EXAMPLES = 60_000  # in one file
_UNSIGNED_BYTES = 0x08


def read_idx(path: Path, example_shape: tuple[int, ...]) -> Tensor:
    """What a gzipped IDX file holds, [N, *example_shape] uint8; no more is unpacked than it may hold.

    Raises:
        TaskError: it cannot be read, or holds something else.
    """
    again = f"Fetch it again with: rm {path}"
    head_bytes = 4 + 4 * (1 + len(example_shape))
    most = head_bytes + MOST_EXAMPLES * math.prod(example_shape)
    try:
        with gzip.open(path) as file:
            data = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise TaskError(f"{path} cannot be read ({error}). {again}") from error
    magic = bytes((0, 0, _UNSIGNED_BYTES, 1 + len(example_shape)))
    if data[:4] != magic:
        raise TaskError(f"{path} begins with {data[:4].hex()}, expected {magic.hex()} of an IDX file. {again}")
    shape = tuple(int.from_bytes(data[place : place + 4], "big") for place in range(4, head_bytes, 4))
    if shape[1:] != example_shape or not 0 < shape[0] <= MOST_EXAMPLES or len(data) != head_bytes + math.prod(shape):
        raise TaskError(f"{path} holds {len(data):,} bytes for a shape of {list(shape)}. {again}")
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=head_bytes).copy()).view(shape)


def read_files(settings: MnistConfig) -> tuple[Labelled, Labelled]:
    """Training and test, each as (images [N, 1, 28, 28] uint8, labels [N] int64); fetched where they are not there.

    Raises: TaskError as of `fetch` and `read_idx`, and where labels do not go with the images.
    """
    folder = Path(settings.data_dir).expanduser() / settings.name
    base = settings.url.rstrip("/")
    paths = [
        fetch(f"{base}/{name}", md5, str(folder), name, settings.name)
        for name, md5 in zip(FILES, settings.md5, strict=True)
    ]
    train, test = (_labelled(paths[place], paths[place + 1]) for place in (0, 2))
    return train, test


def _labelled(images_path: Path, labels_path: Path) -> Labelled:
    images = read_idx(images_path, (MNIST_PIXELS, MNIST_PIXELS)).unsqueeze(1)
    labels = read_idx(labels_path, ()).long()
    if len(images) != len(labels) or int(labels.max()) >= NUM_CLASSES:
        raise TaskError(
            f"{labels_path} holds {len(labels):,} labels up to {int(labels.max())}, expected {len(images):,} up to "
            f"{NUM_CLASSES - 1}. Fetch it again with: rm {labels_path}"
        )
    return images, labels


@TASKS.register("mnist", MnistConfig)
def build_mnist(settings: MnistConfig, device: torch.device, dtype: torch.dtype, split_seed: int) -> Task:
    """MNIST as a task; a digit in a mirror is none."""
    train, test = read_files(settings)
    return build_published(settings, train, test, NUM_CLASSES, device, dtype, split_seed, is_mirrored=False)


@TASKS.register("fashion_mnist", FashionMnistConfig)
def build_fashion_mnist(
    settings: FashionMnistConfig, device: torch.device, dtype: torch.dtype, split_seed: int
) -> Task:
    """Fashion-MNIST as a task."""
    train, test = read_files(settings)
    return build_published(settings, train, test, NUM_CLASSES, device, dtype, split_seed, is_mirrored=True)

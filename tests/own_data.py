"""Data as a user might bring them: small sets in each format, and functions for `task.factory`."""

import gzip
import hashlib
import io
import random
import tarfile

import numpy as np
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from esper import Data
from esper.tasks.published.cifar import CIFAR10, CIFAR100
from esper.tasks.published.idx import FILES

CLASSES = ("ant", "bee", "cat")
# What composes a task that cannot do without: nothing is read yet.
NEEDED = {
    "images": ["task.path=FOLDER"],
    "arrays": ["task.path=FILE.npz"],
    "table": ["task.path=FILE.csv", "task.target=kind"],
    "custom": ["task.factory=tests.own_data:data"],
}


def vectors(count=60):
    """Inputs [N, 4] float32 and labels [N] that show in them."""
    y = np.arange(count) % len(CLASSES)
    noise = np.random.default_rng(0).normal(size=(count, 4))
    return (noise + 2.0 * y[:, None]).astype(np.float32), y


def pictures(count=60, side=8):
    """Images [N, H, W, 3] uint8 and labels [N] that show in them."""
    y = np.arange(count) % len(CLASSES)
    draw = np.random.default_rng(0)
    images = draw.integers(0, 64, (count, side, side, 3), dtype=np.uint8)
    for image, label in zip(images, y, strict=True):
        image[:, :, label] += 128
    return images, y


def data():
    x, y = pictures()
    return Data(train=(x, y), class_names=CLASSES)


def datasets():
    x, y = (torch.from_numpy(part) for part in pictures())
    return TensorDataset(x[:40], y[:40]), TensorDataset(x[40:], y[40:])


def pair():
    return pictures()


def by_name():
    train, test = datasets()
    return {"train": train, "test": test}


def numbers():
    return vectors()[0], vectors()[0][:, 0]


def nothing():
    return None


def broken():
    return 1 / 0


def refused():
    return Data(train=vectors(), loss="mes")


def of_what(kind):
    return kind


def strange():
    return {"train": pair(), "trian": pair()}


def only_test():
    return {"train": None, "test": pair()}


# ---- files


def image_folder(root, count=60, splits=("",)):
    """A folder of images by class, in each of these folders."""
    images, y = pictures(count)
    for number, (image, label) in enumerate(zip(images, y, strict=True)):
        folder = root / splits[number // 3 % len(splits)] / CLASSES[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    return root


def csv_file(path, count=60):
    x, y = vectors(count)
    rows = [f"{row[0]},{row[1]},{'ab'[int(row[2] > 1)]},{CLASSES[label]}" for row, label in zip(x, y, strict=True)]
    path.write_text("\n".join(["width,height,colour,kind", *rows]) + "\n")
    return path


def small_cifar(folder, archive):
    """An archive in the published format, with a few images; what makes a run take it."""
    draw = random.Random(0)
    with tarfile.open(folder / archive.name, "w:gz") as tar:
        for name in archive.train_files + archive.test_files:
            labels = [bytes(archive.label_bytes - 1) + bytes([label]) for label in range(10) for _ in range(4)]
            content = b"".join(label + draw.randbytes(3072) for label in labels)
            info = tarfile.TarInfo(f"cifar/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    md5 = hashlib.md5((folder / archive.name).read_bytes(), usedforsecurity=False).hexdigest()
    return [f"task.data_dir={folder}", f"task.md5={md5}"]


def small_idx(folder):
    """The files of MNIST in the published format, with a few images."""
    draw, md5 = random.Random(0), []
    folder.mkdir()
    for name in FILES:
        sizes, content = [40], bytes(range(10)) * 4
        if "images" in name:
            sizes, content = [40, 28, 28], draw.randbytes(40 * 784)
        head = bytes((0, 0, 8, len(sizes))) + b"".join(size.to_bytes(4, "big") for size in sizes)
        (folder / name).write_bytes(gzip.compress(head + content))
        md5.append(hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest())
    return [f"task.data_dir={folder.parent}", f"task.md5=[{','.join(md5)}]"]


def made(option, folder):
    """Overrides for a task, whose data are made in the folder first."""
    found = []
    match option:
        case "cifar10" | "cifar100":
            found = small_cifar(folder, CIFAR10 if option == "cifar10" else CIFAR100)
        case "mnist" | "fashion_mnist":
            found = small_idx(folder / option)
        case "images":
            found = [f"task.path={image_folder(folder / 'images')}", "task.image_size=8"]
        case "arrays":
            x, y = pictures()
            np.savez(folder / "own.npz", x=x, y=y)
            found = [f"task.path={folder / 'own.npz'}"]
        case "table":
            found = [f"task.path={csv_file(folder / 'own.csv')}"]
        case "custom":
            pass
        case _:
            return []
    return [*found, "batch_size=8"]

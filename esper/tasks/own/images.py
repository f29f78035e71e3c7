"""Images of the user's own: a folder for each class, below train/, val/ and test/ where there are such."""

import hashlib
import itertools
import os
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from esper.checks import did_you_mean
from esper.errors import TaskError, first_line
from esper.files import open_to_read
from esper.tasks.data import Data
from esper.tasks.settings import TASKS, ImagesConfig

SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
MOST_IMAGES = 1_000_000

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image; name: its path below the classes' folder, which decides where it falls."""

    path: Path
    label: str
    name: str


@TASKS.register("images", ImagesConfig)
def build_images(settings: ImagesConfig, split_seed: int) -> Data:
    """Data of the images: those of a split that has no folder are told by the hash of their names."""
    root = Path(str(settings.path)).expanduser()
    folders = _split_folders(root)
    files = {split: _listed(folder) for split, folder in folders.items()}
    _check_apart(itertools.chain(*files.values()))
    classes = sorted({file.label for file in files["train"]})
    for file in itertools.chain(*files.values()):
        if file.label not in classes:
            near = did_you_mean(file.label, classes)
            raise TaskError(f"{file.path}: class {file.label} has no folder to train on{near}")
    missing = [split for split in ("val", "test") if split not in files]
    if missing:
        _split_by_name(files, settings, split_seed)
    for split, own in files.items():
        if not own:
            raise TaskError(
                f"task.path={settings.path}: no image falls into {split}; more of them, or another "
                f"task.{'val' if split == 'train' else split}_fraction, will do"
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata, and of what converting loses
        splits: dict[str, Any] = {split: _read(own, settings, classes) for split, own in files.items()}
    shapes = {x.shape[1:] for x, _ in splits.values()}
    if len(shapes) > 1:
        raise TaskError(f"task.path={settings.path}: splits of unlike sizes; task.image_size=PIXELS makes them alike")
    return Data(**splits, class_names=tuple(classes), layout="nhwc", kept_apart=tuple(missing))


def _pillow() -> tuple[Any, Any]:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise TaskError(f"task=images needs Pillow ({error}); run: pip install 'esper[data]'") from error
    return Image, ImageOps


def _formats() -> list[str]:
    """What Pillow reads by itself; PostScript is a program, which it has others run."""
    pillow, _ = _pillow()
    pillow.init()
    return [name for name in pillow.ID if name != "EPS"]


def _split_folders(root: Path) -> dict[str, Path]:
    """The folder of classes of each split that has one."""
    try:
        names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise TaskError(f"task.path={root}: cannot be read ({error.strerror or error}); expected a folder") from error
    found = {name: SPLIT_FOLDERS[name.lower()] for name in names if name.lower() in SPLIT_FOLDERS}
    if "train" not in found.values():
        return {"train": root}
    strange = [name for name in names if name not in found]
    if strange or len(set(found.values())) < len(found):
        raise TaskError(
            f"task.path={root}: holds {', '.join(names)}\n  expected a folder for each class, or train, val and test"
        )
    places = {split: root / name for name, split in found.items()}
    return {"train": places.pop("train"), **places}  # first, as what it holds the others must not


def _listed(folder: Path) -> list[ImageFile]:
    """The images of all classes, by name. Raises TaskError where a class has none, or there are no classes."""
    known = set(_pillow()[0].registered_extensions())
    found: list[ImageFile] = []
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise TaskError(f"{folder}: holds no folders; expected one for each class, with images in it")
    for place in classes:
        before = len(found)
        for path in _walk(place):
            if path.suffix.lower() in known and not path.name.startswith("."):
                found.append(ImageFile(path, place.name, path.relative_to(folder).as_posix()))
        if len(found) == before:
            raise TaskError(f"{place}: no image in it; expected one or more, or no such folder")
        if len(found) > MOST_IMAGES:
            raise TaskError(f"{folder}: more than {MOST_IMAGES:,} images; name a smaller folder")
    return found


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise TaskError(f"{error.filename}: cannot be read ({error.strerror})") from error

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders.sort()
        yield from (Path(place, name) for name in sorted(names))


def _check_apart(files: Iterable[ImageFile]) -> None:
    """Raise TaskError where one file stands in two places, as by a link: in two splits, or as two classes."""
    places: dict[str, Path] = {}
    for file in files:
        other = places.setdefault(os.path.realpath(file.path), file.path)
        if other != file.path:
            raise TaskError(f"{file.path} is {other}: one image in two places; remove one")


def _split_by_name(files: dict[str, list[ImageFile]], settings: ImagesConfig, split_seed: int) -> None:
    """Give the splits that lack a folder their share of the training images: each image by its own name alone."""
    fractions = {"val": settings.val_fraction, "test": settings.test_fraction}
    lacking = {split: share for split, share in fractions.items() if split not in files}
    whole = files["train"]
    files |= {split: [] for split in ("train", *lacking)}
    for file in whole:
        digest = hashlib.sha256(f"{split_seed}/{file.name}".encode("utf-8", "surrogateescape")).digest()
        place, split = int.from_bytes(digest[:8], "big") / 2**64, "train"
        for name, share in lacking.items():
            if 0 <= place < share:
                split = name
            place -= share
        files[split].append(file)


def _read(files: list[ImageFile], settings: ImagesConfig, classes: list[str]) -> tuple[Pixels, torch.Tensor]:
    """Pixels [N, H, W, C] and labels [N] of one split."""

    first = read_image(files[0].path, settings.image_size, settings.color)

    def read(file: ImageFile) -> Pixels:
        image = read_image(file.path, settings.image_size, settings.color)
        if image.shape != first.shape:
            sizes = (f"{one.shape[1]}x{one.shape[0]}" for one in (image, first))
            raise TaskError(
                f"{file.path}: {' pixels, and the first image is '.join(sizes)}\n"
                "  task.image_size=PIXELS makes them alike"
            )
        return image

    pixels = np.empty((len(files), *first.shape), np.uint8)
    with ThreadPoolExecutor() as pool:  # decoding leaves the interpreter to others
        for place, image in enumerate(pool.map(read, files)):
            pixels[place] = image
    return pixels, torch.tensor([classes.index(file.label) for file in files])


def read_image(path: Path, size: int | None, color: str) -> Pixels:
    """An image [H, W, C], upright, of `size` x `size` pixels where that is given. Raises TaskError, with the file."""
    pillow, operations = _pillow()
    try:
        with BufferedReader(open_to_read(path)) as file, pillow.open(file, formats=_formats()) as image:
            if image.mode in ("I", "F"):
                raise ValueError(f"pixels of 32 bits, mode {image.mode}: where white lies is not told; 8 or 16 bits do")
            upright = operations.exif_transpose(image)
            if upright.mode.startswith("I;16"):  # Pillow would cut what lies above 255
                upright = pillow.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            upright = upright.convert("RGB" if color == "rgb" else "L")
            if size is not None:
                upright = upright.resize((size, size), pillow.Resampling.BILINEAR)
            pixels = np.asarray(upright)
    except Exception as error:  # what is no image is answered with errors of many kinds
        why = getattr(error, "strerror", None) or first_line(error)
        raise TaskError(f"{path}: cannot be read as an image ({why}); mend it, or remove it") from error
    return pixels if pixels.ndim == 3 else pixels[:, :, None]

"""Folders of images become tasks; what is wrong is told with the file."""

import os
import shutil
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from esper.errors import ConfigError, TaskError
from esper.tasks import build_task
from esper.tasks.own.images import read_image
from esper.tasks.settings import ImagesConfig
from tests.own_data import CLASSES, image_folder, pictures

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    return image_folder(tmp_path_factory.mktemp("images"))


@pytest.fixture
def folder(given, tmp_path):
    return shutil.copytree(given, tmp_path / "images")


def built(path, **values):
    return build_task(ImagesConfig(path=str(path), **{"image_size": None, **values}))


def images_of(task, split):
    """Of a split, which images it has: by the rank of their first channel's pixels, which standardising keeps."""
    x = getattr(task, f"{split}_x")[:, 0]
    return {tuple(row) for row in x.flatten(1).argsort(dim=1, stable=True).tolist()}


def test_a_folder_of_classes_is_split_by_the_hash_of_names(given):
    task = built(given)
    assert (task.num_outputs, task.input_shape, task.class_names) == (3, (3, 8, 8), CLASSES)
    sizes = [len(getattr(task, f"{split}_y")) for split in SPLITS]
    assert sum(sizes) == 60 and min(sizes) >= 6
    assert f"task=images: {sizes[0]} training, {sizes[1]} validation, {sizes[2]} test; " in task.notes[0]
    assert not images_of(task, "train") & images_of(task, "val") & images_of(task, "test")
    brightest = task.train_x.mean((2, 3)).argmax(1)
    assert torch.equal(brightest, task.train_y)  # a picture's class is its bright channel


def test_images_that_are_added_move_no_others(folder):
    before = built(folder)
    other = pictures(61)[0][60]
    Image.fromarray(other).save(folder / "ant" / "0b.png")
    after = built(folder)
    assert sum(len(getattr(after, f"{split}_y")) for split in SPLITS) == 61
    assert all(images_of(before, split) <= images_of(after, split) for split in SPLITS)
    assert images_of(built(folder, split_seed=1), "test") != images_of(after, "test")


@pytest.mark.parametrize(
    ("splits", "lacking"),
    [
        (("train", "val", "test"), ""),
        (("Train", "validation", "test"), ""),
        (("train", "test"), "validation"),
        (("train", "valid"), "test"),
        (("train",), "validation and test"),
    ],
)
def test_folders_of_splits_are_kept(splits, lacking, tmp_path):
    task = built(image_folder(tmp_path, splits=splits))
    sizes = {split: len(getattr(task, f"{split}_y")) for split in SPLITS}
    for split in splits[1:]:
        files = list((tmp_path / split).rglob("*.png"))
        assert sizes[{"validation": "val", "valid": "val"}.get(split, split)] == len(files) > 0
    said = "".join(task.notes)
    assert sum(sizes.values()) == 60 and (f"{lacking} kept apart" in said if lacking else not said)


@pytest.mark.parametrize(("color", "channels"), [("rgb", 3), ("gray", 1)])
def test_images_are_resized(given, color, channels):
    task = built(given, image_size=6, color=color)
    assert task.input_shape == (channels, 6, 6)
    assert ImagesConfig(path="x", image_size=6).side_pixels == 6


def test_images_of_any_mode_are_read(tmp_path):
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK"):
        Image.fromarray(pixels).convert(mode).save(tmp_path / f"{mode}.tiff")
        assert read_image(tmp_path / f"{mode}.tiff", None, "gray").shape == (8, 8, 1)
        assert read_image(tmp_path / f"{mode}.tiff", 4, "rgb").shape == (4, 4, 3)
    Image.fromarray(pixels.astype(np.uint16) * 256).save(tmp_path / "deep.png")
    assert np.array_equal(read_image(tmp_path / "deep.png", None, "gray")[:, :, 0], pixels)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_whose_white_is_not_known_are_refused(tmp_path, dtype):
    Image.fromarray(np.ones((8, 8), dtype)).save(tmp_path / "deep.tiff")
    with pytest.raises(TaskError, match=r"deep.tiff: .*pixels of 32 bits, mode [IF]: .*8 or 16 bits do"):
        read_image(tmp_path / "deep.tiff", None, "gray")


def test_copies_of_an_image_are_no_overlap_of_splits(folder):
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        if number % 4:
            shutil.copy(sorted(path.parent.iterdir())[0], path)
    assert "stand in train" in "".join(built(folder).notes)


def test_nothing_is_warned_of(folder):
    for path in folder.rglob("*.png"):
        image = Image.open(path).convert("P")
        image.info["transparency"] = bytes(range(256))
        image.save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        built(folder)


def test_images_are_turned_upright(tmp_path):
    pixels = np.arange(32, dtype=np.uint8).reshape(4, 8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "turned.png", None, "gray")[:, :, 0], np.rot90(pixels, -1))


def test_links_are_followed_and_what_is_no_image_is_passed_over(folder):
    os.rename(folder / "cat", folder.parent / "elsewhere")
    os.symlink(folder.parent / "elsewhere", folder / "cat")
    (folder / "ant" / "notes.txt").write_text("")
    (folder / "ant" / ".hidden.png").write_text("")
    (folder / ".cache").mkdir()
    (folder / "bee" / "deeper").mkdir()
    os.rename(folder / "bee" / "1.png", folder / "bee" / "deeper" / "1.png")
    task = built(folder)
    assert task.class_names == CLASSES and sum(len(getattr(task, f"{split}_y")) for split in SPLITS) == 60


def cut(folder):
    file = folder / "bee" / "4.png"
    file.write_bytes(file.read_bytes()[:60])


def larger(folder):
    Image.fromarray(np.zeros((9, 8, 3), np.uint8)).save(folder / "bee" / "4.png")


def emptied(folder):
    shutil.rmtree(folder / "bee")
    (folder / "bee").mkdir()


def one_class(folder):
    for name in ("bee", "cat"):
        shutil.rmtree(folder / name)


def half_split(folder):
    shutil.copytree(folder / "ant", folder / "train")


def few(folder):
    for name in CLASSES:
        for file in sorted((folder / name).iterdir())[1:]:
            file.unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (shutil.rmtree, "task.path=.*images: cannot be read .*expected a folder"),
        (cut, r"bee/4.png: cannot be read as an image \(.*; mend it, or remove it"),
        (lambda folder: (folder / "ant" / "x.jpg").write_text("text"), "ant/x.jpg: cannot be read as an image"),
        (lambda folder: (folder / "ant" / "x.jpg").symlink_to("gone"), r"ant/x.jpg: cannot be read .*\(No such file"),
        (lambda folder: os.mkfifo(folder / "ant" / "x.jpg"), r"ant/x.jpg: cannot be read .*\(it is a FIFO"),
        (lambda folder: (folder / "ant" / "x.jpg").symlink_to("x.jpg"), r"ant/x.jpg: .*\(Too many levels of symbolic"),
        (
            lambda folder: (folder / "ant" / "x.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
            r"ant/x.png: cannot be read as an image \(cannot identify",
        ),
        (larger, "bee/4.png: 8x9 pixels, and the first image is 8x8\n.*task.image_size=PIXELS"),
        (emptied, "bee: no image in it"),
        (lambda folder: [shutil.rmtree(folder / name) for name in CLASSES], "images: holds no folders"),
        (
            lambda folder: (folder / "loop").symlink_to(folder),
            "loop/ant/0.png is .*/ant/0.png: one image in two places",
        ),
        (one_class, "all training labels are 0"),
        (few, "no image falls into (val|test|train); .*task.(val|test)_fraction"),
        (
            lambda folder: shutil.copytree(folder / "ant", folder / "train"),
            "holds ant, bee, cat, train\n.* or train, val",
        ),
    ],
)
def test_what_makes_no_task_is_refused(folder, change, said):
    change(folder)
    with pytest.raises(TaskError, match=said) as refused:
        built(folder)
    assert str(refused.value).count("\n") <= 1


def stray(folder):
    os.rename(folder / "test" / "cat", folder / "test" / "cta")


def linked(folder):
    shutil.rmtree(folder / "test")
    os.symlink(folder / "train", folder / "test")


def copied(folder):
    shutil.rmtree(folder / "test")
    shutil.copytree(folder / "train", folder / "test")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (stray, "test/cta/.*png: class cta has no folder to train on; did you mean cat"),
        (linked, "test/ant/0.png is .*train/ant/0.png: one image in two places; remove one"),
        (copied, "test x: 24 of its 30 examples stand in train"),
        (lambda folder: shutil.copytree(folder / "test", folder / "Test"), "holds Test, test, train"),
    ],
)
def test_splits_that_are_mixed_up_are_refused(tmp_path, change, said):
    folder = image_folder(tmp_path, splits=("train", "test"))
    change(folder)
    with pytest.raises(TaskError, match=said):
        built(folder)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "task.path: task=images needs data of yours, as in: task=images task.path=FOLDER"),
        ({"path": "x", "color": "grey"}, "task.color=grey: not known; did you mean gray"),
        ({"path": "x", "image_size": 2}, "task.image_size=2: expected 4 to 1024"),
        ({"path": "x", "val_fraction": 0.6, "test_fraction": 0.6}, "val_fraction . task.test_fraction = 1.2"),
    ],
)
def test_a_wrong_value_is_named(values, said):
    with pytest.raises(ConfigError, match=said):
        ImagesConfig(**values)

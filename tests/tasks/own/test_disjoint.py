"""Whatever loader reads them, each example is in one split, and none is lost."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file
from torch.utils.data import TensorDataset

from esper.errors import TaskError
from esper.tasks import build_task
from esper.tasks.data import Data, build_from_data
from esper.tasks.settings import ArraysConfig, ImagesConfig, TableConfig

SPLITS = ("train", "val", "test")


def marked(parts):
    """Each split's examples [N, 2]: a number that no other example has, and its class."""
    numbers = np.arange(sum(parts.values()))
    whole = np.stack([numbers, numbers % 2], 1).astype(np.int64)
    ends = np.cumsum(list(parts.values()))[:-1]
    return dict(zip(parts, np.split(np.random.default_rng(0).permutation(whole), ends), strict=True))


def from_images(folder, parts, **values):
    for split, rows in marked(parts).items():
        for number, label in rows:
            place = folder / ("" if len(parts) == 1 else split) / "ab"[label]
            place.mkdir(parents=True, exist_ok=True)
            pixels = np.full((4, 4), number, np.uint8)
            Image.fromarray(pixels).save(place / f"{number}.png")
    return build_task(ImagesConfig(path=str(folder), image_size=None, color="gray", **values))


def from_arrays(folder, parts, **values):
    arrays = {}
    for split, rows in marked(parts).items():
        arrays |= {f"x_{split}": rows[:, :1] * 1.0, f"y_{split}": np.ascontiguousarray(rows[:, 1])}
    save_file(arrays, folder / "own.safetensors")
    return build_task(ArraysConfig(path=str(folder / "own.safetensors"), **values))


def from_table(folder, parts, **values):
    lines = "".join(f"{number},{'xy'[label]}\n" for number, label in marked(parts)["train"])
    (folder / "own.csv").write_text(f"a,kind\n{lines}")
    return build_task(TableConfig(path=str(folder / "own.csv"), target="kind", **values))


def from_datasets(folder, parts, split_seed, **values):
    sets = {split: TensorDataset(*torch.from_numpy(rows).split(1, 1)) for split, rows in marked(parts).items()}
    return build_from_data(Data(**sets), "custom", torch.device("cpu"), torch.float32, split_seed, **values)


@pytest.mark.parametrize("build", [from_images, from_arrays, from_table, from_datasets])
@settings(max_examples=12, deadline=None)
@given(st.data())
def test_splits_are_disjoint_and_nothing_is_lost(build, data):
    parts = {"train": data.draw(st.integers(30, 70))}
    if build is not from_table:
        parts |= {split: data.draw(st.integers(5, 20)) for split in data.draw(st.sets(st.sampled_from(SPLITS[1:])))}
    fractions = {f"{split}_fraction": data.draw(st.floats(0.15, 0.4)) for split in SPLITS[1:]}
    with TemporaryDirectory() as folder:
        try:
            task = build(Path(folder), parts, split_seed=data.draw(st.integers(0, 99)), **fractions)
        except TaskError as error:  # by name, a split may stay empty
            assert build is from_images and "no image falls into" in str(error)
            return
    found = [getattr(task, f"{split}_x").flatten(1)[:, 0].tolist() for split in SPLITS]
    assert [len(y) for y in (task.train_y, task.val_y, task.test_y)] == [len(split) for split in found]
    assert len(set().union(*found)) == sum(map(len, found)) == sum(parts.values())
    given_sizes = [parts.get(split) for split in SPLITS]
    assert all(size == len(own) for size, own in zip(given_sizes[1:], found[1:], strict=True) if size)

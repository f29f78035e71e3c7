"""Files of arrays become tasks; what is wrong is told with the file."""

import os
import zipfile

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from esper.errors import ConfigError, TaskError
from esper.tasks import build_task
from esper.tasks.settings import ArraysConfig
from tests.own_data import pictures, vectors

X, Y = vectors()
SPLIT = {"x_train": X[:40], "y_train": Y[:40], "x_test": X[40:], "y_test": Y[40:]}


def built(path, **values):
    path = [str(one) for one in path] if isinstance(path, list) else str(path)
    return build_task(ArraysConfig(path=path, **values))


def npz(folder, **arrays):
    np.savez(folder / "own.npz", **arrays)
    return folder / "own.npz"


def safetensors(folder, **arrays):
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / "own.safetensors")
    return folder / "own.safetensors"


def npy_folder(folder, **arrays):
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def npy_list(folder, **arrays):
    npy_folder(folder, **arrays)
    return [folder / f"{name}.npy" for name in arrays]


FORMATS = (npz, safetensors, npy_folder, npy_list)


@pytest.mark.parametrize("write", FORMATS)
def test_x_and_y_are_split(write, tmp_path):
    task = built(write(tmp_path, x=X, y=Y))
    assert (task.inputs, task.num_outputs, task.input_shape) == ("vectors", 3, (4,))
    assert [len(y) for y in (task.train_y, task.val_y, task.test_y)] == [36, 12, 12]
    assert torch.allclose(task.train_x.mean(0), torch.zeros(4), atol=1e-5)
    assert torch.equal(task.val_x, built(npz(tmp_path, X=X, Y=Y)).val_x)


@pytest.mark.parametrize("write", FORMATS)
def test_splits_that_are_given_are_kept(write, tmp_path):
    task = built(write(tmp_path, **SPLIT), val_fraction=0.3)
    assert [len(y) for y in (task.train_y, task.val_y, task.test_y)] == [28, 12, 20]
    assert torch.equal(task.test_y, torch.from_numpy(Y[40:]))
    own = built(write(tmp_path, **SPLIT, x_val=X[:9] + 50, y_val=Y[:9]))
    assert torch.equal(own.val_y, torch.from_numpy(Y[:9])) and len(own.train_y) == 40


def test_two_files_are_x_and_y_whatever_they_are_called(tmp_path):
    task = built(npy_list(tmp_path, features=X, kinds=Y))
    assert torch.equal(task.val_x, built(npz(tmp_path, x=X, y=Y)).val_x)


def test_images_are_told_by_their_shape(tmp_path):
    images, y = pictures()
    path = npz(tmp_path, x=images, y=y)
    assert built(path).input_shape == (3, 8, 8)
    assert built(path, layout="nchw").input_shape == (8, 8, 3)


def garbage(suffix):
    def write(folder):
        (folder / f"own{suffix}").write_bytes(b"PK\x03\x04 and no more")
        return folder / f"own{suffix}"

    return write


def halved(folder):
    path = npz(folder, x=X, y=Y)
    path.write_bytes(path.read_bytes()[:-90])
    return path


def fifo(folder):
    os.mkfifo(folder / "own.npz")
    return folder / "own.npz"


def test_narrow_floats_are_read(tmp_path):
    narrow = torch.from_numpy(X).bfloat16()
    save_torch({"x": narrow, "y": torch.from_numpy(Y)}, tmp_path / "own.safetensors")
    expected = built(npz(tmp_path, x=narrow.float().numpy(), y=Y))
    assert torch.equal(built(tmp_path / "own.safetensors").train_x, expected.train_x)


def test_what_a_file_is_its_content_says(tmp_path):
    npz(tmp_path, x=X, y=Y).rename(tmp_path / "own.npy")
    assert built(tmp_path / "own.npy").input_shape == (4,)
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    np.save(tmp_path / "y.npy", Y)
    assert built([tmp_path / "x.npz", tmp_path / "y.npy"]).input_shape == (4,)


def headed(head):
    """An .npy file that begins so."""

    def write(folder):
        head_bytes = head.encode().ljust(116) + b"\n"
        content = b"\x93NUMPY\x01\x00" + len(head_bytes).to_bytes(2, "little") + head_bytes + bytes(64)
        (folder / "x.npy").write_bytes(content)
        return folder / "x.npy"

    return write


def claiming(folder):
    """An archive whose array is said to take more than any machine has."""
    with zipfile.ZipFile(folder / "own.npz", "w") as archive:
        archive.write(headed("{'descr': '<f8', 'fortran_order': False, 'shape': (1125899906842624, 4)}")(folder))
        archive.write(folder / "x.npy", "x.npy")
    return folder / "own.npz"


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (headed("{'descr': '<f8', 'fortran_order': False, 'shape': (3"), "x.npy: cannot be read"),
        (headed("{'descr': '<f8', 'fortran_order': False, 'shape': " + "(" * 90), "x.npy: cannot be read"),
        (claiming, r"own.npz: cannot be read \(Unable to allocate"),
        (lambda folder: folder / "none.npz", r"none.npz: cannot be read \(No such file"),
        (lambda folder: folder / "own.csv", "own.csv: expected an .npz, .npy or .safetensors file"),
        (lambda folder: folder, "there is no .npy file in it"),
        (garbage(".npz"), "own.npz: cannot be read"),
        (garbage(".npy"), "own.npy: cannot be read"),
        (garbage(".safetensors"), "own.safetensors: cannot be read"),
        (halved, "own.npz: cannot be read"),
        (fifo, "own.npz: cannot be read .it is a FIFO; expected a file"),
        (lambda folder: npz(folder, x=np.array([{}, {}]), y=Y[:2]), r"own.npz: cannot be read \(.*[Oo]bject"),
        (lambda folder: npz(folder, x=X), "there is no y for train: it holds x\n.*x, y, or x_train"),
        (lambda folder: npz(folder, x_test=X, y_test=Y), "nothing to train on: it holds x_test, y_test"),
        (lambda folder: npz(folder, x=X, y=Y, x_test=X), "there is no y for test"),
        (lambda folder: npz(folder, x=X, y=Y, x_tset=X), r"holds \[x,y,x_tset\]\n.*; did you mean x_test"),
        (lambda folder: [npz(folder, x=X, y=Y)] * 2, "own.npz: x stands in another file, too"),
        (lambda folder: npz(folder, x=X[:5], y=Y), r"train: x \[5, 4\] and y \[60\]"),
        (lambda folder: npz(folder, x=X, y=Y * 0), "all training labels are 0"),
        (lambda folder: npz(folder, x=np.where(X > 3, np.nan, X), y=Y), "train x: example .* holds NaN"),
        (lambda folder: npz(folder, x=X, y=X[:, 0]), "train y: holds float32 values"),
    ],
)
def test_what_makes_no_task_is_refused(tmp_path, write, said):
    with pytest.raises(TaskError, match=said) as refused:
        built(write(tmp_path))
    assert str(refused.value).count("\n") <= 1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "task.path: task=arrays needs data of yours, as in: task=arrays task.path=FILE.npz"),
        ({"path": []}, "task.path: task=arrays needs"),
        ({"path": ["x", 3]}, "task.path: task=arrays needs"),
        ({"path": "~nobody.at.all/x.npz"}, "task.path=~nobody.at.all/x.npz: expected a path"),
        ({"path": "a\0b.npz"}, "task.path=.*: expected a path"),
        ({"path": "x", "loss": "mae"}, "task.loss=mae: not known; did you mean mse"),
        ({"path": "x", "layout": "nchv"}, "task.layout=nchv: not known; did you mean nchw"),
        ({"path": "x", "num_outputs": 0}, "task.num_outputs=0: expected 1 to"),
    ],
)
def test_a_wrong_value_is_named(values, said):
    with pytest.raises(ConfigError, match=said):
        ArraysConfig(**values)

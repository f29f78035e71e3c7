"""Arrays of the user's own: .npz, .npy and .safetensors files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from esper.checks import did_you_mean, spelled
from esper.errors import TaskError, first_line
from esper.files import open_to_read
from esper.tasks.data import Data
from esper.tasks.settings import TASKS, ArraysConfig

_EXPECTED = "x, y, or x_train, y_train and x_test, y_test (and x_val, y_val)"
_SPLITS = {"train": "train", "val": "val", "valid": "val", "test": "test"}
_KNOWN = ("x", "y", *(f"{letter}_{split}" for split in _SPLITS for letter in "xy"))

Arrays = Mapping[str, NDArray[Any] | Tensor]


@TASKS.register("arrays", ArraysConfig)
def build_arrays(settings: ArraysConfig) -> Data:
    """Data of the arrays that the files hold."""
    given = settings.path if isinstance(settings.path, list) else [settings.path]
    arrays = _read([Path(path).expanduser() for path in given])
    by_split: dict[str, dict[str, NDArray[Any] | Tensor]] = {}
    for name, array in arrays.items():
        letter, _, split = name.lower().partition("_")
        by_split.setdefault(_SPLITS.get(split, "train"), {})[letter] = array
    for split, pair in by_split.items():
        if missing := [letter for letter in "xy" if letter not in pair]:
            raise TaskError(
                f"task.path={spelled(settings.path)}: there is no {missing[0]} for {split}: {_held(arrays)}"
            )
    if "train" not in by_split:
        raise TaskError(f"task.path={spelled(settings.path)}: nothing to train on: {_held(arrays)}")
    splits: dict[str, Any] = {split: (pair["x"], pair["y"]) for split, pair in by_split.items()}
    return Data(**splits, loss=settings.loss, num_outputs=settings.num_outputs, layout=settings.layout)


def _read(paths: list[Path]) -> Arrays:
    """The arrays of all files by name, of which each is a known one."""
    if len(paths) == 1 and paths[0].is_dir():
        folder = paths[0]
        paths = sorted(folder.glob("*.npy"))
        if not paths:
            raise TaskError(f"task.path={folder}: there is no .npy file in it")
    found: dict[str, NDArray[Any] | Tensor] = {}
    for path in paths:
        for name, array in _load(path).items():
            if name in found:
                raise TaskError(f"task.path={path}: {name} stands in another file, too")
            found[name] = array
    names = list(found)
    if len(paths) == len(names) == 2 and not {name.lower() for name in names} & set(_KNOWN):
        found = dict(zip("xy", found.values(), strict=True))  # a pair, whatever its files are called
    for name in found:
        if name.lower() not in _KNOWN:
            near = did_you_mean(name, _KNOWN)
            raise TaskError(f"task.path={paths[0]}: holds {spelled(list(found))}\n  expected {_EXPECTED}{near}")
    return found


def _load(path: Path) -> Arrays:
    """What one file holds, by name; of an .npy file its own is the name."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        if path.suffix in (".npy", ".npz"):
            with open_to_read(path) as file:
                loaded = np.load(file)
                if isinstance(loaded, np.ndarray):  # what a file is, its first bytes say
                    return {path.stem: loaded}
                return {name: loaded[name] for name in loaded.files}
    except Exception as error:  # what is damaged is answered with errors of many kinds
        why = getattr(error, "strerror", None) or first_line(error)
        raise TaskError(f"task.path={path}: cannot be read ({why})") from error
    raise TaskError(f"task.path={path}: expected an .npz, .npy or .safetensors file, or a folder of .npy files")


def _held(arrays: Arrays) -> str:
    return f"it holds {', '.join(arrays)}\n  expected {_EXPECTED}"

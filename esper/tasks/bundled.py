"""Data files that scikit-learn bundles, read without it: to import it takes longer than a small run."""

import gzip
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from esper.errors import TaskError, first_line

FOLDER = "datasets/data"


def read_bundled(
    task: str, name: str, shape: tuple[int, ...], dtype: DTypeLike, delimiter: str | None = ","
) -> NDArray[Any]:
    """The numbers of such a file, [N, F] or [N]. delimiter: None: white space.

    Raises: TaskError where scikit-learn is not there, or the file holds something else.
    """
    sklearn = find_spec("sklearn")
    path = (Path(sklearn.origin).parent if sklearn and sklearn.origin else Path("sklearn")) / FOLDER / name
    try:
        with gzip.open(path, "rt") as file:
            numbers = np.loadtxt(file, dtype=dtype, delimiter=delimiter)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise TaskError(
            f"task={task} needs scikit-learn ({first_line(error)}); run: pip install scikit-learn"
        ) from error
    if numbers.shape != shape:
        raise TaskError(f"{path}: holds {list(numbers.shape)} numbers; run: pip install --force-reinstall scikit-learn")
    return numbers

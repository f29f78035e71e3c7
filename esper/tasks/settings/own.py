"""Data of the user's own: folders of images, arrays, tables, and what a function of theirs gives."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from esper.checks import in_range, one_of, require
from esper.errors import ConfigError
from esper.factories import check_factory
from esper.leyline import LOSSES
from esper.tasks.settings.base import LAYOUTS, BaseTaskConfig


@dataclass(kw_only=True)
class OwnDataConfig(BaseTaskConfig):
    """What every task on a user's own data takes.

    val_fraction, test_fraction: of the training examples, kept apart where the data has no such split.
    """

    inputs: ClassVar[str] = ""

    val_fraction: float = 0.2
    test_fraction: float = 0.2

    def __post_init__(self) -> None:
        in_range("task.val_fraction", self.val_fraction, 0.01, 0.9)
        in_range("task.test_fraction", self.test_fraction, 0.01, 0.9)
        if self.val_fraction + self.test_fraction > 0.95:
            total = self.val_fraction + self.test_fraction
            raise ConfigError(f"task.val_fraction + task.test_fraction = {total:g}: expected at most 0.95")


@dataclass(kw_only=True)
class ImagesConfig(OwnDataConfig):
    """A folder of images: one folder a class, below train/, val/ and test/ where there are such.

    image_size: height and width that images are resized to, in pixels; None: as they are, all of one size. color:
    "rgb" or "gray".
    """

    inputs: ClassVar[str] = "images"

    name: str = "images"
    path: str | None = None
    image_size: int | None = 32
    color: str = "rgb"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_path(self.name, self.path, "FOLDER")
        one_of("task.color", self.color, ("rgb", "gray"))
        if self.image_size is not None:
            in_range("task.image_size", self.image_size, 4, 1024)

    @property
    def sources(self) -> list[tuple[str, str]]:
        """The folder."""
        return [("task.path", str(self.path))]

    @property
    def side_pixels(self) -> int | None:
        """After resizing."""
        return self.image_size


@dataclass(kw_only=True)
class ArraysConfig(OwnDataConfig):
    """Arrays x and y, or x_train, y_train, x_test, y_test (and x_val, y_val): see `esper.tasks.data.Data`.

    path: an .npz or .safetensors file, a folder of .npy files, or a list of them; two are x and y, whatever their
    names. loss, num_outputs, layout: as of `Data`.
    """

    name: str = "arrays"
    path: Any = None  # a text, or a list of them
    loss: str = "cross_entropy"
    num_outputs: int | None = None
    layout: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        paths = self.path if isinstance(self.path, list) else [self.path]
        for path in paths or [None]:
            _check_path(self.name, path, "FILE.npz")
        one_of("task.loss", self.loss, LOSSES)
        one_of("task.layout", self.layout, LAYOUTS)
        if self.num_outputs is not None:
            in_range("task.num_outputs", self.num_outputs, 1, 1_000_000)

    @property
    def sources(self) -> list[tuple[str, str]]:
        """The files, or folders of them."""
        return [("task.path", str(path)) for path in (self.path if isinstance(self.path, list) else [self.path])]


@dataclass(kw_only=True)
class TableConfig(OwnDataConfig):
    """A table, CSV or Parquet: a row is an example.

    target: the column to predict. drop: columns that are left out. loss: as of `Data`.
    """

    inputs: ClassVar[str] = "vectors"

    name: str = "table"
    path: str | None = None
    target: str | None = None
    drop: list[str] = field(default_factory=list)
    loss: str = "cross_entropy"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_path(self.name, self.path, "FILE.csv task.target=COLUMN")
        require(bool(self.target), "task.target", self.target, "the column to predict, as in task.target=COLUMN")
        one_of("task.loss", self.loss, LOSSES)

    @property
    def sources(self) -> list[tuple[str, str]]:
        """The file."""
        return [("task.path", str(self.path))]


@dataclass(kw_only=True)
class CustomTaskConfig(OwnDataConfig):
    """What a function of the user's own gives.

    factory: "package.module:function", without arguments. loss, num_outputs: as of `Data`; where they are set, they
    replace what the function says.
    """

    name: str = "custom"
    factory: str = ""
    loss: str = "cross_entropy"
    num_outputs: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_factory("task.factory", self.factory)
        one_of("task.loss", self.loss, LOSSES)
        if self.num_outputs is not None:
            in_range("task.num_outputs", self.num_outputs, 1, 1_000_000)


def _check_path(task: str, path: object, example: str) -> None:
    if not isinstance(path, str) or not path:
        raise ConfigError(f"task.path: task={task} needs data of yours, as in: task={task} task.path={example}")
    try:
        is_path = "\0" not in str(Path(path).expanduser())
    except RuntimeError:  # of ~nobody
        is_path = False
    require(is_path, "task.path", path, "a path")

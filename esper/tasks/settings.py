"""What a task can be told: plain dataclasses, free of torch, that check their own values."""

import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from esper.checks import did_you_mean, in_range, one_of, require, spelled
from esper.errors import ConfigError
from esper.registry import Registry

if TYPE_CHECKING:
    from esper.tasks.data import Data
    from esper.tasks.task import Task

DIGITS_PIXELS, CIFAR10_PIXELS = 8, 32  # height and width of the images as they come
CORPORA = ("installed", "text")
LOSSES = ("cross_entropy", "mse", "huber")
LAYOUTS = ("auto", "nchw", "nhwc", "nhw", "ntf", "nf")  # which axis of inputs is what: N examples, C channels, T time
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"


@dataclass(frozen=True, slots=True, kw_only=True)
class DistortionStrength:
    """How far an image may be moved: each value is drawn anew per image, evenly within these bounds.

    rotation_degrees: at most so far either way. scale_range: smallest and largest magnification. shift_pixels: at most
    so far along each axis, in pixels of the distorted image. noise_std: of the Gaussian noise, where the ink's full
    strength is 1.
    """

    rotation_degrees: float
    scale_range: tuple[float, float]
    shift_pixels: float
    noise_std: float


PRESETS: dict[str, DistortionStrength] = {
    "mild": DistortionStrength(rotation_degrees=15.0, scale_range=(0.9, 1.1), shift_pixels=1.0, noise_std=0.1),
    "default": DistortionStrength(rotation_degrees=30.0, scale_range=(0.8, 1.2), shift_pixels=2.0, noise_std=0.15),
}


def _choice(key: str, value: str, allowed: list[str]) -> None:
    if value not in allowed:
        raise ConfigError(f"{key}={value}: expected one of {', '.join(allowed)}{did_you_mean(value, allowed)}")


def _within(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{key}={value}: expected a value from {low:.10g} to {high:.10g}.")


@dataclass(kw_only=True)
class BaseTaskConfig:
    """What every task takes.

    name: chooses the builder. split_seed: fixes which example falls into which split; None follows the run's seed.
    `inputs` is the kind of data that a host gets: "images" [C, H, W], "tokens" [T] int64, "vectors" [F], "sequences"
    [T, F]; empty where only the data tells it.
    """

    inputs: ClassVar[str] = "images"

    name: str = ""
    split_seed: int | None = 0

    @property
    def side_pixels(self) -> int | None:
        """Height and width of its images, as far as it has any and they are known beforehand."""
        return None


@dataclass(kw_only=True)
class DigitsConfig(BaseTaskConfig):
    """scikit-learn's 1,797 handwritten digits, 8x8 pixels, bundled with the library.

    distortion: "none" leaves the 8x8 images as they are; "mild" and "default" upsample to `image_size` and distort
    anew every epoch. The four fields from `rotation_degrees` on replace single values of the chosen strength.
    val_copies: fixed distortions of each validation and test example (one where there is no distortion).
    """

    name: str = "digits"
    distortion: str = "default"
    image_size: int = 16
    rotation_degrees: float | None = None
    scale_range: list[float] | None = None
    shift_pixels: float | None = None
    noise_std: float | None = None
    val_fraction: float = 0.2
    test_fraction: float = 0.195  # leaves 1,088 for training: 17 whole batches of 64
    val_copies: int = 4

    def __post_init__(self) -> None:
        _choice("task.distortion", self.distortion, [*PRESETS, "none"])
        replaced = [key for key in DistortionStrength.__dataclass_fields__ if getattr(self, key) is not None]
        if self.distortion == "none" and replaced:
            raise ConfigError(f"task.{replaced[0]} has no effect with task.distortion=none; drop one of the two.")
        _within("task.image_size", self.image_size, 8, 256)
        _within("task.val_copies", self.val_copies, 1, 64)
        _within("task.rotation_degrees", self.rotation_degrees or 0.0, 0.0, 180.0)
        _within("task.shift_pixels", self.shift_pixels or 0.0, 0.0, self.image_size)
        _within("task.noise_std", self.noise_std or 0.0, 0.0, 10.0)
        if self.scale_range is not None and not (
            len(self.scale_range) == 2 and 0.1 <= self.scale_range[0] <= self.scale_range[1] <= 10.0
        ):
            raise ConfigError(f"task.scale_range={self.scale_range}: expected [smallest,largest] from 0.1 to 10.")
        _within("task.val_fraction", self.val_fraction, 0.01, 0.9)
        _within("task.test_fraction", self.test_fraction, 0.01, 0.9)
        if self.val_fraction + self.test_fraction > 0.95:
            raise ConfigError(
                f"task.val_fraction + task.test_fraction = {self.val_fraction + self.test_fraction:g}: "
                "expected at most 0.95, so that something is left to train on."
            )

    @property
    def side_pixels(self) -> int | None:
        """Of the images that a host gets."""
        return DIGITS_PIXELS if self.distortion == "none" else self.image_size

    def strength(self) -> DistortionStrength | None:
        """The distortion asked for, or None for plain images."""
        if self.distortion == "none":
            return None
        preset = PRESETS[self.distortion]
        low, high = self.scale_range or preset.scale_range
        return DistortionStrength(
            rotation_degrees=preset.rotation_degrees if self.rotation_degrees is None else self.rotation_degrees,
            scale_range=(low, high),
            shift_pixels=preset.shift_pixels if self.shift_pixels is None else self.shift_pixels,
            noise_std=preset.noise_std if self.noise_std is None else self.noise_std,
        )


@dataclass(kw_only=True)
class Cifar10Config(BaseTaskConfig):
    """CIFAR-10 (Krizhevsky 2009), the binary version: 50,000 + 10,000 colour images, 32x32 pixels.

    distortion: "default" shifts by up to `shift_pixels` and mirrors anew every epoch, "none" does neither.
    val_fraction: share of the 50,000 kept out of training; the 10,000 are the test split.
    data_dir: where the archive is kept. url, md5: where it is fetched from at first use, and what it must be.
    """

    name: str = "cifar10"
    distortion: str = "default"
    shift_pixels: int = 4
    val_fraction: float = 0.1
    data_dir: str = "~/.cache/esper"
    url: str = CIFAR10_URL
    md5: str = CIFAR10_MD5

    def __post_init__(self) -> None:
        _choice("task.distortion", self.distortion, ["default", "none"])
        _within("task.shift_pixels", self.shift_pixels, 0, 31)
        _within("task.val_fraction", self.val_fraction, 0.01, 0.9)

    @property
    def side_pixels(self) -> int | None:
        """Of all images."""
        return CIFAR10_PIXELS


@dataclass(kw_only=True)
class BytesConfig(BaseTaskConfig):
    """What every task on text takes: a token is a byte, an example a window of bytes and the byte after each.

    block_size: bytes in a window. epoch_windows: how many are drawn from the training text each epoch.
    train_bytes, val_bytes, test_bytes: size of the splits.
    """

    inputs: ClassVar[str] = "tokens"

    block_size: int = 64
    epoch_windows: int = 1024
    train_bytes: int = 524_288
    val_bytes: int = 32_768
    test_bytes: int = 32_768

    def __post_init__(self) -> None:
        _within("task.block_size", self.block_size, 2, 65_536)
        _within("task.epoch_windows", self.epoch_windows, 1, 10_000_000)
        for key in ("train_bytes", "val_bytes", "test_bytes"):
            _within(f"task.{key}", getattr(self, key), self.block_size + 1, 2**31)


@dataclass(kw_only=True)
class PysourceConfig(BytesConfig):
    """The source files of Python's own standard library: on every machine, so nothing is downloaded."""

    name: str = "pysource"


@dataclass(kw_only=True)
class TextConfig(BytesConfig):
    """Text of one's own. Less than the splits together is divided in the same proportions.

    path: a file, of which the splits are spans, one after the other; or a folder, or a list of both: each file is then
    in one split, and split_seed decides in which. tokenizer: None: a token is one of 256 byte values; "bytes" or a
    tokenizer file: `esper.tasks.text.tokenizer.get_tokenizer`, and block_size counts tokens.
    """

    name: str = "text"
    path: Any = None  # a text, or a list of them
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.paths or not all(isinstance(path, str) and path for path in self.paths):
            raise ConfigError("task.path: task=text needs a file, as in: experiment=language task=text task.path=FILE")
        check_paths("task.path", self.paths)
        if self.tokenizer == "":
            raise ConfigError("task.tokenizer=: expected null, bytes, or a tokenizer file")

    @property
    def paths(self) -> list[str]:
        """Files and folders."""
        return self.path if isinstance(self.path, list) else [] if self.path is None else [self.path]


def check_paths(key: str, paths: list[str]) -> None:
    """Raise ConfigError where one is given twice, or lies inside another: no text is to be in two places."""
    real = [os.path.realpath(os.path.expanduser(path.replace("\0", "/"))) for path in paths]
    for first, second in itertools.permutations(range(len(paths)), 2):
        if real[second] == real[first]:
            raise ConfigError(f"{key}={spelled(paths)}: {paths[second]} is given twice")
        if real[second].startswith(os.path.join(real[first], "")):
            raise ConfigError(f"{key}={spelled(paths)}: {paths[second]} lies inside {paths[first]}; name one of them")


@dataclass(kw_only=True)
class CorpusConfig:
    """Text of several domains, each split three ways.

    name: "installed": what every installation carries, as the domains python, prose and cpp; "text": `paths`, each a
    domain of its own, called as its file or folder is. train_bytes, val_bytes, test_bytes: at most so much of a domain
    in each split; less text than that is divided in the same proportions. block_size: tokens of a window; no split of
    any domain may be shorter.
    """

    key: ClassVar[str] = "corpus"  # what its values lie under
    name_key: ClassVar[str] = "corpus.name"

    name: str = "installed"
    paths: list[str] = field(default_factory=list)
    train_bytes: int = 2_097_152
    val_bytes: int = 131_072
    test_bytes: int = 131_072
    block_size: int = 128

    def __post_init__(self) -> None:
        one_of(self.name_key, self.name, CORPORA)
        in_range(f"{self.key}.block_size", self.block_size, 2, 65_536)
        for key in ("train_bytes", "val_bytes", "test_bytes"):
            in_range(f"{self.key}.{key}", getattr(self, key), self.block_size + 1, 2**31)
        paths = self.paths_key
        if self.name == "text":
            require(bool(self.paths), paths, self.paths, f"files or folders, as in {paths}=[FILE,FOLDER]")
        elif self.paths:
            raise ConfigError(
                f"{paths}={spelled(self.paths)}: has no effect with {self.name_key}={self.name}; drop one of the two"
            )
        for path in self.paths:
            require(bool(path), paths, self.paths, "no empty name among them")
        check_paths(paths, self.paths)
        self.domain_paths()

    @property
    def paths_key(self) -> str:
        """The key that `paths` is set by."""
        return f"{self.key}.paths"

    def domain_paths(self) -> dict[str, str]:
        """The paths by domain. Raises ConfigError where two have one name."""
        found: dict[str, str] = {}
        for path in self.paths:
            domain = Path(path).expanduser().resolve().stem if "\0" not in path else path
            if domain in found:
                raise ConfigError(
                    f"{self.paths_key}={spelled(self.paths)}: {found[domain]} and {path} are both called {domain}\n"
                    "  rename one, or put both into one folder"
                )
            found[domain] = path
        return found

    def sizes(self) -> tuple[int, int, int]:
        """Bytes of a domain's training, validation and test split."""
        return self.train_bytes, self.val_bytes, self.test_bytes


class _TasksCorpusConfig(CorpusConfig):
    """A corpus that a run has as its task."""

    key: ClassVar[str] = "task"
    name_key: ClassVar[str] = "task.corpus"


@dataclass(kw_only=True)
class CorpusTaskConfig(BytesConfig):
    """All domains of a corpus as one task, in equal shares; sizes of splits are a domain's.

    corpus, paths: see `CorpusConfig` (corpus is its name). tokenizer: "bytes" or a tokenizer file; block_size counts
    tokens. val_windows: at most so many of the validation windows drive decisions, evenly spaced; None: all.
    """

    name: str = "corpus"
    corpus: str = "installed"
    paths: list[str] = field(default_factory=list)
    tokenizer: str = "bytes"
    val_windows: int | None = None
    train_bytes: int = 2_097_152
    val_bytes: int = 131_072
    test_bytes: int = 131_072

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.tokenizer), "task.tokenizer", self.tokenizer, "bytes, or a tokenizer file")
        if self.val_windows is not None:
            in_range("task.val_windows", self.val_windows, 1, 10_000_000)
        self.corpus_config()

    def corpus_config(self) -> CorpusConfig:
        """What the text is read by. Raises ConfigError on wrong values."""
        return _TasksCorpusConfig(
            name=self.corpus,
            paths=self.paths,
            train_bytes=self.train_bytes,
            val_bytes=self.val_bytes,
            test_bytes=self.test_bytes,
            block_size=self.block_size,
        )


TASKS: "Registry[BaseTaskConfig, Task | Data]" = Registry("task")
TASKS.declare("digits", DigitsConfig, "esper.tasks.digits:build_digits")
TASKS.declare("cifar10", Cifar10Config, "esper.tasks.cifar10:build_cifar10")
TASKS.declare("pysource", PysourceConfig, "esper.tasks.text.pysource:build_pysource")
TASKS.declare("text", TextConfig, "esper.tasks.text.own_text:build_text")
TASKS.declare("corpus", CorpusTaskConfig, "esper.tasks.text.corpus_task:build_corpus_task")

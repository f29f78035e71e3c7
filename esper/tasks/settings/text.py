"""Text: Python's own, that of the user, and corpora of several domains."""

import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from esper.checks import in_range, one_of, require, spelled
from esper.errors import ConfigError
from esper.tasks.settings.base import BaseTaskConfig

CORPORA = ("installed", "text")


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
        in_range("task.block_size", self.block_size, 2, 65_536)
        in_range("task.epoch_windows", self.epoch_windows, 1, 10_000_000)
        for key in ("train_bytes", "val_bytes", "test_bytes"):
            in_range(f"task.{key}", getattr(self, key), self.block_size + 1, 2**31)


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

    @property
    def sources(self) -> list[tuple[str, str]]:
        """Texts."""
        return [("task.path", path) for path in self.paths]


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

    @property
    def sources(self) -> list[tuple[str, str]]:
        """Texts."""
        return [("task.paths", path) for path in self.paths]

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

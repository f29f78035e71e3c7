"""What a corpus can be told: free of torch, so that mistakes are answered before it is loaded."""

from dataclasses import dataclass, field
from pathlib import Path

from esper.checks import in_range, one_of, require, spelled
from esper.errors import ConfigError
from esper.tasks.settings import check_paths

CORPORA = ("installed", "text")
PATHS = "corpus.paths"


@dataclass(kw_only=True)
class CorpusConfig:
    """Text of several domains, each split three ways.

    name: "installed": what every installation carries, as the domains python, prose and cpp; "text": `paths`, each a
    domain of its own, called as its file or folder is. train_bytes, val_bytes, test_bytes: at most so much of a domain
    in each split; less text than that is divided in the same proportions. block_size: tokens of a window; no split of
    any domain may be shorter.
    """

    name: str = "installed"
    paths: list[str] = field(default_factory=list)
    train_bytes: int = 2_097_152
    val_bytes: int = 131_072
    test_bytes: int = 131_072
    block_size: int = 128

    def __post_init__(self) -> None:
        one_of("corpus.name", self.name, CORPORA)
        in_range("corpus.block_size", self.block_size, 2, 65_536)
        for key in ("train_bytes", "val_bytes", "test_bytes"):
            in_range(f"corpus.{key}", getattr(self, key), self.block_size + 1, 2**31)
        if self.name == "text":
            require(bool(self.paths), PATHS, self.paths, "files or folders, as in corpus.paths=[FILE,FOLDER]")
        elif self.paths:
            raise ConfigError(
                f"{PATHS}={spelled(self.paths)}: has no effect with corpus.name={self.name}; drop one of the two"
            )
        for path in self.paths:
            require(bool(path), PATHS, self.paths, "no empty name among them")
        check_paths(PATHS, self.paths)
        self.domain_paths()

    def domain_paths(self) -> dict[str, str]:
        """The paths by domain. Raises ConfigError where two have one name."""
        found: dict[str, str] = {}
        for path in self.paths:
            domain = Path(path).expanduser().resolve().stem if "\0" not in path else path
            if domain in found:
                raise ConfigError(
                    f"{PATHS}={spelled(self.paths)}: {found[domain]} and {path} would both be the domain {domain}\n"
                    "  rename one, or put both into one folder"
                )
            found[domain] = path
        return found

    def sizes(self) -> tuple[int, int, int]:
        """Bytes of a domain's training, validation and test split."""
        return self.train_bytes, self.val_bytes, self.test_bytes

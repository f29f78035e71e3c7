"""Where text comes from: what every installation carries, and files of the user's own.

Files come in an order that their names and a seed decide, whatever order the disk has, and only as many are read as a
corpus may need.
"""

import hashlib
import os
import stat
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

from esper.checks import spelled
from esper.errors import ConfigError, TaskError
from esper.files import open_to_read
from esper.tasks.text.docstrings import without_docstrings
from esper.tasks.text.pysource import list_sources

PYTHON, PROSE, CPP = INSTALLED_DOMAINS = ("python", "prose", "cpp")
MOST_FILES = 100_000  # in a folder of the user's own
MOST_SOURCE_BYTES = 1 << 24  # of a file that is installed
SURPLUS = 1.25  # read so much more than is wanted: what resembles other text is for training alone
_HEADERS = (".h", ".hpp", ".cuh")
_GENERATED = "ATen/ops"  # thousands of headers, all alike
_TOPICS = "pydoc_data/topics.py"  # prose in a dictionary, each entry a text of its own
_SNIFFED_BYTES = 8192
_CORPUS_PATHS = "corpus.paths"
_EXAMPLES = {
    "task.path": "experiment=language task=text task.path=FILE",
    "task.paths": "experiment=language task=corpus task.corpus=text task.paths=[FILE,FOLDER]",
    _CORPUS_PATHS: "corpus=text corpus.paths=[FILE,FOLDER]",
    "--text": "esper evaluate RUN --text FILE FOLDER",
    "TEXT": "esper tokenizer train FOLDER --out FILE.json",
}


@dataclass(frozen=True, slots=True)
class TextFile:
    """What one file holds for each domain: it falls into one split for all of them."""

    name: str
    texts: Mapping[str, bytes]


def in_order(names: Iterable[str], seed: int) -> list[str]:
    """The names in an order that they and the seed decide."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest())


# ---- what every installation carries


def installed_files(seed: int, most_bytes: int, text_bytes: int) -> list[TextFile]:
    """Python source without docstrings, prose (docstrings, and the topics of Python's help), and C++ headers of torch.

    Args:
        most_bytes: of each domain, little more is read.
        text_bytes: at most so many of one text, so that every split is a mixture.

    Raises: TaskError where a file cannot be read, or there is none of a domain.
    """
    library = Path(sysconfig.get_path("stdlib"))
    topics = _topics()
    sources = [path.as_posix() for path in list_sources(library) if path.as_posix() != _TOPICS]

    def split_source(name: str) -> dict[str, bytes]:
        if name in topics:
            return {PROSE: topics[name]}
        source, docstrings = without_docstrings(_read(library / name))
        return {PYTHON: source, PROSE: docstrings}

    headers = _headers()
    of_python = _taken(in_order([*sources, *topics], seed), split_source, (PYTHON, PROSE), most_bytes, text_bytes)
    of_cpp = _taken(in_order(headers, seed), lambda name: {CPP: _read(headers[name])}, (CPP,), most_bytes, text_bytes)
    return check_installed(list(chain(of_python, of_cpp)))


def check_installed(files: list[TextFile]) -> list[TextFile]:
    """The files. Raises TaskError where one of the domains has none, as without torch's headers or Python's sources."""
    if missing := [domain for domain in INSTALLED_DOMAINS if not any(domain in file.texts for file in files)]:
        raise TaskError(
            f"corpus=installed: this installation carries no text for {', '.join(missing)}\n"
            f"  text of your own will do: {_EXAMPLES[_CORPUS_PATHS]}"
        )
    return files


def _topics() -> dict[str, bytes]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions leave it out
        return {}
    return {f"{_TOPICS}#{name}": text.strip().encode() + b"\n\n" for name, text in topics.items()}


def _headers() -> dict[str, Path]:
    """Headers that come with torch, by name."""
    spec = find_spec("torch")
    root = Path(spec.origin).parent / "include" if spec and spec.origin else Path()
    found: dict[str, Path] = {}
    for folder, folders, names in os.walk(root):
        place = Path(folder).relative_to(root).as_posix()
        folders[:] = [name for name in folders if f"{place}/{name}" != _GENERATED]
        found |= {f"{place}/{name}": Path(folder, name) for name in names if name.endswith(_HEADERS)}
    return found


def _taken(
    names: list[str],
    read: Callable[[str], dict[str, bytes]],
    domains: tuple[str, ...],
    most_bytes: int,
    text_bytes: int,
) -> Iterator[TextFile]:
    """Files until each domain has enough; of a domain that has, no more text is taken."""
    have = dict.fromkeys(domains, 0)
    for name in names:
        wanting = {domain for domain, size in have.items() if size < most_bytes * SURPLUS}
        if not wanting:
            return
        texts = {domain: text[:text_bytes] for domain, text in read(name).items() if text and domain in wanting}
        for domain, text in texts.items():
            have[domain] += len(text)
        if texts:
            yield TextFile(name, texts)


def _read(path: Path) -> bytes:
    try:
        return read_head(path, MOST_SOURCE_BYTES)
    except OSError as error:
        reason = error.strerror or error
        raise TaskError(
            f"cannot read {path} ({reason})\n  text of your own will do: {_EXAMPLES[_CORPUS_PATHS]}"
        ) from error


# ---- text of the user's own


def own_files(key: str, paths: Sequence[str], domain: str, seed: int, most_bytes: int) -> list[TextFile]:
    """The texts of files, and of all files in folders: links, hidden files and what is no text left out there.

    Args:
        key: of the configuration, that named them.
        most_bytes: so much is read of one file, and little more of all.

    Raises: ConfigError where there is no text, or it cannot be read.
    """
    files: dict[str, tuple[Path, bool]] = {}
    for path in paths:
        for name, file, is_named in _listed(key, path):
            files[name if name not in files else f"{path}/{name}"] = file, is_named
    found, have = [], 0
    for name in in_order(files, seed):
        file, is_named = files[name]
        try:
            text = read_head(file, most_bytes)
        except (OSError, ValueError) as error:
            raise _unreadable(key, str(file), error) from None
        if is_named or (text and b"\0" not in text[:_SNIFFED_BYTES]):
            found.append(TextFile(name, {domain: text}))
            have += len(text)
        if have >= most_bytes * SURPLUS:
            break
    if not found:
        said = paths[0] if len(paths) == 1 else spelled(paths)
        raise ConfigError(f"{key}={said}: there is no text in it; as in: {_EXAMPLES[key]}")
    return found


def read_head(path: Path, most_bytes: int) -> bytes:
    """The first bytes of a plain file. Raises OSError."""
    parts = []
    with open_to_read(path) as file:
        while most_bytes > 0 and (part := file.read(min(most_bytes, 1 << 24))):
            parts.append(part)
            most_bytes -= len(part)
    return b"".join(parts)


def _listed(key: str, path: str) -> Iterator[tuple[str, Path, bool]]:
    """(name, file, whether it was named itself) of a file, or of all in a folder; names are those inside the folder."""
    root = Path(path).expanduser()
    try:
        if not root.is_dir():
            yield root.name, root, True
            return
        count = 0
        for folder, folders, names in os.walk(root, onerror=_refuse):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                file = Path(folder, name)
                if name.startswith(".") or not stat.S_ISREG(file.lstat().st_mode):
                    continue
                if (count := count + 1) > MOST_FILES:
                    raise ConfigError(f"{key}={path}: it holds more than {MOST_FILES:,} files; name a smaller folder")
                yield file.relative_to(root).as_posix(), file, False
    except (OSError, ValueError) as error:
        raise _unreadable(key, path, error) from None


def _refuse(error: OSError) -> None:
    raise error


def _unreadable(key: str, path: str, error: Exception) -> ConfigError:
    reason = getattr(error, "strerror", None) or error
    path = getattr(error, "filename", None) or path
    return ConfigError(f"{key}={path}: cannot be read ({reason}); name a file of text, as in: {_EXAMPLES[key]}")

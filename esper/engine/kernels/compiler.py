"""Compiles kernels for this processor at first use and keeps the libraries in a folder that is the user's alone."""

import contextlib
import ctypes
import fcntl
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from esper.errors import CheckpointError, EngineError
from esper.files import write_atomic

_FOLDER = Path(__file__).parent
_HEADERS = ("arguments.h", "vectors.h", "convolution.h", "winograd.h", "activation.h", "layer_norm.h", "seed.h")
# A NaN tells that a network diverged: whatever the compiler was told, it must not assume that there are none.
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-fno-fast-math", "-fno-math-errno", "-fno-trapping-math")
_LIMIT_S, _PAUSE_S = 300, 0.05


def open_library(name: str) -> ctypes.CDLL:
    """The compiled `name`.cpp: the one kept by an earlier process, else compiled now, by one process at a time.

    Raises EngineError, in a line, where it cannot be had.
    """
    try:
        compiler = _compiler()
        source = _FOLDER / f"{name}.cpp"
        stem = f"{name}-{_fingerprint(compiler, source)}"
        folders = [folder for folder in _folders() if _is_private(folder)]
        for folder in folders:
            if library := _kept(folder, stem):
                return library
        with _locked(folders) as writable:
            return (writable and _kept(writable, stem)) or _compiled(compiler, source, writable, stem)
    except OSError as error:
        raise EngineError(f"the kernels could not be compiled and loaded: {error}") from error


def _compiler() -> list[str]:
    """The command, with its arguments: CXX, split as a shell would, or what is installed."""
    try:
        given = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise EngineError(f"CXX is no command ({error}): {os.environ['CXX']}") from None
    found = given or [path for path in map(shutil.which, ("g++", "clang++")) if path][:1]
    if not found:
        raise EngineError("no C++ compiler (g++ or clang++) found")
    return found


def _fingerprint(compiler: list[str], source: Path) -> str:
    """A home folder may serve several machines: sources, compiler and processor all name the file."""
    try:
        cpu = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        cpu = platform.processor()
    texts = [path.read_text(encoding="utf-8") for path in (source, *map(_FOLDER.joinpath, _HEADERS))]
    key = "\0".join([*texts, *compiler, *_FLAGS, platform.platform(), cpu])
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:16]


# ---- where libraries are kept


def _folders() -> Iterator[Path]:
    root = os.environ.get("XDG_CACHE_HOME", "")
    with contextlib.suppress(RuntimeError):  # neither HOME nor an entry in the list of users
        yield (Path(root) if os.path.isabs(root) else Path.home() / ".cache") / "esper"
    with contextlib.suppress(OSError):  # no place for temporary files
        yield Path(tempfile.gettempdir()) / f"esper-{os.getuid()}"


def _is_private(folder: Path) -> bool:
    """Whether nobody else can have put a library there; makes the folder where it is missing."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return stat.S_ISDIR((found := folder.lstat()).st_mode) and _is_ours(found)
    except OSError:
        return False


def _is_ours(found: os.stat_result) -> bool:
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _kept(folder: Path, stem: str) -> ctypes.CDLL | None:
    """A library of ours that is whole: its name ends in its content's hash (loading a cut one kills the process)."""
    for path in folder.glob(f"{stem}-*.so"):
        with contextlib.suppress(OSError):
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                found = os.fstat(file.fileno())
                is_sound = stat.S_ISREG(found.st_mode) and _is_ours(found) and path.stem == _name(stem, file.read())
            if is_sound:
                return ctypes.CDLL(str(path))
    return None


def _name(stem: str, content: bytes) -> str:
    return f"{stem}-{hashlib.sha256(content).hexdigest()[:16]}"


@contextlib.contextmanager
def _locked(folders: list[Path]) -> Iterator[Path | None]:
    """The first folder that can be written to, for this process alone; None where there is none.

    The lock dies with its holder. Without locks, or when the holder takes too long, several compile: libraries are
    written whole.
    """
    for folder in folders:
        try:
            descriptor = os.open(folder / "kernels.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError:  # read-only, or full
            continue
        try:
            _wait(descriptor)
            yield folder
        finally:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing would leave it to children forked meanwhile
            os.close(descriptor)
        return
    yield None


def _wait(descriptor: int) -> None:
    deadline = time.monotonic() + _LIMIT_S
    while time.monotonic() < deadline:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE_S)
        except OSError:
            return None
    return None


# ---- compiling


def _compiled(compiler: list[str], source: Path, folder: Path | None, stem: str) -> ctypes.CDLL:
    """Compile, keep the library in the folder if that can be done, and load it."""
    with tempfile.TemporaryDirectory(prefix="esper-") as scratch:
        built = Path(scratch) / "kernels.so"
        _compile(compiler, source, built)
        if folder is not None:
            content = built.read_bytes()
            kept = folder / f"{_name(stem, content)}.so"
            with contextlib.suppress(CheckpointError, OSError):  # a full disk, or one that nothing is run from
                write_atomic(kept, content)
                kept.chmod(0o700)
                return ctypes.CDLL(str(kept))
        return ctypes.CDLL(str(built))


def _compile(compiler: list[str], source: Path, library: Path) -> None:
    is_linux = platform.system() == "Linux"
    # Linked without -fopenmp: the symbols then come from the OpenMP runtime that torch has already loaded, and both
    # share one pool of threads.
    openmp = ["-fopenmp"] if is_linux and "clang" not in " ".join(compiler) else []
    shared = ["-shared"] if is_linux else ["-dynamiclib", "-undefined", "dynamic_lookup"]
    built = library.with_suffix(".o")
    _run([*compiler, *_FLAGS, *openmp, "-c", str(source), "-o", str(built)])
    _run([*compiler, *_FLAGS, *shared, str(built), "-o", str(library)])


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, encoding="utf-8", errors="replace", timeout=_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise EngineError(f"{command[0]} could not compile the kernels within {_LIMIT_S} s") from None
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        raise EngineError(f"{command[0]} could not compile the kernels: {said[0] if said else error}") from None

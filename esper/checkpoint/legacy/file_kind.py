"""What a file is, told by its bytes and whatever its name: a layout of torch, or what else it may be taken for.

Nothing in it is run. Whoever has a checkpoint that is none is told what it is instead.
"""

import stat
import tarfile
import zipfile
from enum import Enum
from pathlib import Path
from typing import IO

from esper.checkpoint.legacy.pickle_machine import PickleMachine
from esper.errors import CheckpointError
from esper.printing import printable

_ZIP_START = b"PK\x03\x04"
_TAR_BLOCK = 512
_TORCH_TAR = {"sys_info", "pickle", "storages", "tensors"}
_HEAD = 4096
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_UNPACK = "unpack it first"
_SIGNATURES = (  # (offset, bytes, what such a file is)
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file it stands for: `git lfs pull` fetches that"),
    (0, b"/annex/objects/", "a git-annex pointer, not the file it stands for: `git annex get` fetches that"),
    *((offset, b"\x89HDF\r\n\x1a\n", "an HDF5 file: read it with h5py") for offset in (0, 512, 1024, 2048)),
    (0, b"\x93NUMPY", "a NumPy array (.npy): read it with numpy.load"),
    (0, b"GGUF", "a GGUF file, as llama.cpp reads it"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (0, b"SQLite format 3\0", "an SQLite database"),
    (0, b"%PDF-", "a PDF"),
    (0, b"\x7fELF", "a program or library (ELF)"),
    (0, b"PK\x05\x06", "an empty zip archive"),
    (0, b"\x1f\x8b", f"compressed by gzip: {_UNPACK}"),
    (0, b"BZh", f"compressed by bzip2: {_UNPACK}"),
    (0, b"\xfd7zXZ\0", f"compressed by xz: {_UNPACK}"),
    (0, b"\x28\xb5\x2f\xfd", f"compressed by zstd: {_UNPACK}"),
    (0, b"7z\xbc\xaf\x27\x1c", f"a 7z archive: {_UNPACK}"),
)


class FileLayout(Enum):
    """How torch has written files, and pickles that it has not written."""

    ZIP = "zip"
    TORCHSCRIPT = "TorchScript"
    LEGACY = "legacy"
    TAR = "tar"
    PICKLE = "pickle"


class NotTorch(ValueError):
    """The file is something else, which the message names."""


def file_layout(path: Path) -> FileLayout:
    """The layout of a torch file, or PICKLE for what may be a pickle of another program.

    Raises CheckpointError where it cannot be read, or is of another kind, which is named.
    """
    shown = printable(str(path))
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise CheckpointError(f"{shown} is a folder: name a torch file in it.")
        if not stat.S_ISREG(mode):  # reading a pipe or a device may never end
            raise CheckpointError(f"{shown} is a pipe or a device: name a torch file.")
        with path.open("rb") as file:
            head = file.read(_HEAD)
            if _is_safetensors(head, path.stat().st_size):
                raise CheckpointError(
                    f"{shown} is a safetensors file already, which runs nothing: read it with "
                    "esper.checkpoint.load_checkpoint."
                )
            file.seek(0)
            return _layout(file, head)
    except OSError as error:
        raise CheckpointError(f"{shown} cannot be read: {error.strerror or error}.") from error
    except NotTorch as error:
        raise CheckpointError(f"{shown} is not a sound torch checkpoint: it is {error}.") from error


def text_kind(path: Path) -> str | None:
    """What kind of text a file is, in words; None where it is none."""
    with path.open("rb") as file:
        start = file.read(_HEAD)
    try:
        text = start.decode()
    except UnicodeDecodeError as error:
        if error.start < len(start) - 4:  # and not a character cut in two
            return None
        text = start[: error.start].decode()
    if not text or not all(c.isprintable() or c.isspace() for c in text):
        return None
    text = text.lstrip("\ufeff \t\r\n").lower()
    if text.startswith(("<!doctype html", "<html")):
        return "a web page (HTML), as a download that failed leaves"
    return "JSON text" if text.startswith(("{", "[")) else "text"


def _layout(file: IO[bytes], head: bytes) -> FileLayout:
    if not head:
        raise NotTorch("empty")
    for offset, signature, what in _SIGNATURES:
        if head[offset:].startswith(signature):
            raise NotTorch(what)
    if head.startswith(_ZIP_START):  # torch, too, looks at the first bytes only
        return _zip_layout(file)
    if _is_tar(head):
        return _tar_layout(file)
    return FileLayout.LEGACY if _begins_with_magic(file) else FileLayout.PICKLE


def _zip_layout(file: IO[bytes]) -> FileLayout:
    import torch  # here, so that what is no torch file at all is told without loading it

    try:
        records = torch._C.PyTorchFileReader(file).get_all_records()
    except Exception:  # of many kinds, whatever the file holds
        records = []
    if "constants.pkl" in records:
        return FileLayout.TORCHSCRIPT
    if "data.pkl" in records:
        return FileLayout.ZIP
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except Exception as error:  # of many kinds, whatever the file holds
        raise NotTorch("a zip archive that is cut short or damaged") from error
    if names and all(name.endswith(".npy") for name in names):
        raise NotTorch("a NumPy archive (.npz): read it with numpy.load")
    if "model.weights.h5" in names:
        raise NotTorch("a Keras model: read it with keras.saving.load_model")
    if any(name.endswith("/.data/extern_modules") for name in names):
        raise NotTorch("a torch.package archive: save the module's state_dict() with torch.save")
    if any(name.endswith("/archive_format") for name in names):
        raise NotTorch("a program that torch.export has saved: save its state_dict with torch.save")
    raise NotTorch("a zip archive that torch.save did not write: it has no data.pkl")


def _tar_layout(file: IO[bytes]) -> FileLayout:
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            members = {archive.next() for _ in _TORCH_TAR} - {None}
    except Exception as error:  # of many kinds, whatever the file holds
        raise NotTorch("a tar archive that is cut short or damaged") from error
    if not {"pickle", "storages"} <= {member.name for member in members if member}:
        raise NotTorch(f"a tar archive that torch did not write: {_UNPACK}")
    return FileLayout.TAR


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head[:_TAR_BLOCK], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _is_safetensors(head: bytes, size: int) -> bool:
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and 2 <= length <= size - 8


def _begins_with_magic(file: IO[bytes]) -> bool:
    try:
        first = PickleMachine({}).run(file)
    except Exception:  # of many kinds; whoever reads on tells what is wrong
        return False
    return type(first) is int and first == _LEGACY_MAGIC

"""Files that are wholly there, or not at all, and errors that say why they could not be written."""

import errno
from pathlib import Path

from esper.errors import CheckpointError
from esper.files import replace_file, sync_folder

_NO_ROOM = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file size limit is reached",
}


def write_atomic(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file so that a reader, a kill or a power cut meets the old content or the new, never some of it.

    Missing folders are made. The file's mode follows the umask, as with any other file.
    Raises CheckpointError, with the OSError as its cause; the old content is then untouched.
    """
    try:
        _make_folder(path.parent)
        replace_file(path, *parts)
    except OSError as error:
        raise write_error(path, error) from error


def write_error(path: Path, error: OSError) -> CheckpointError:
    """The error to raise from an OSError met while writing `path`."""
    if reason := _NO_ROOM.get(error.errno or 0):
        return CheckpointError(
            f"Cannot write {path}: {reason}. What was saved earlier is intact; make room, or write to another folder."
        )
    return CheckpointError(f"Cannot write {path}: {error.strerror or error}. Expected a folder that can be written to.")


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)

"""Files that are wholly there, or not at all: a file that matters is only ever replaced."""

import contextlib
import errno
import os
import re
import secrets
from pathlib import Path

from esper.errors import CheckpointError

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]+\.tmp")
_NO_ROOM = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file size limit is reached",
}


def write_atomic(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file so that a reader, a kill or a power cut meets the old content or the new, never some of it.

    Missing folders are made; a link of that name is replaced, not followed. The mode follows
    the umask, as with any other file.
    Raises CheckpointError, with the OSError as its cause; the old content is then untouched.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        _make_folder(path.parent)
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise write_error(path, error) from error


def as_unicode(text: str) -> str:
    """Text of the command line or a path, of which Python keeps as surrogates what the locale has no characters for."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def sync_folder(folder: Path) -> None:
    """Make renames and removals in this folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and user-space file systems cannot sync a folder; the rename is atomic there all the same.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def written_for(name: str) -> str | None:
    """Which file a temporary one of this name was to become; None where it is none of ours."""
    match = _TEMPORARY.fullmatch(name)
    return match[1] if match else None


def sweep_temporaries(folder: Path, prefixes: str | tuple[str, ...]) -> None:
    """Remove what killed writers of files that begin so have left. Only the folder's one writer may call it."""
    for name in os.listdir(folder) if folder.is_dir() else ():
        if (written_for(name) or "").startswith(prefixes):
            with contextlib.suppress(OSError):  # one that cannot be removed is no reason to fail
                os.unlink(folder / name)


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

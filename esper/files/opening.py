"""How files are opened: what is ours is written to only where it is a plain file with one name, and nothing waits.

A link in a folder of ours could lead what is written into any file of its user, and so could a hard link; a FIFO would
hold up whoever opens it, and a device is no place for a run. What is written in place is therefore opened by
`open_own`. What is replaced as a whole (`write_atomic`) needs no such care: the name then stands for a new file.
"""

import errno
import os
import stat
from io import FileIO
from pathlib import Path
from typing import BinaryIO, TextIO

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
    stat.S_IFREG: "a file",
}


def open_own(path: Path, flags: int) -> int:
    """A descriptor of a file of ours, to be written in place. flags: as of `os.open`; O_CREAT makes what is missing.

    Raises OSError where it cannot be had, and where the name is a link's, a FIFO's or a device's, or one of several
    names of the file: whatever was written would be written elsewhere, too.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            check_own(path)
        raise
    try:
        _check(path, os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def open_to_append(path: Path) -> FileIO:
    """A file of ours, each write of which goes to its end and straight to the system."""
    return FileIO(open_own(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab")


def open_log(path: Path) -> TextIO:
    """A file of ours for text, appended line by line."""
    descriptor = open_own(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return open(descriptor, "a", buffering=1, encoding="utf-8", errors="replace")


def open_new(path: Path) -> BinaryIO:
    """A file that is not there yet."""
    return open(open_own(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb")


def open_to_read(path: Path | str) -> FileIO:
    """A plain file; links to it are followed. Raises OSError, also for what could keep us waiting: a FIFO, a device."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind != stat.S_IFREG:
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"it is {_KINDS.get(kind, 'no file')}; expected a file", str(path))
    return FileIO(descriptor, "rb")


def check_source(path: Path) -> None:
    """Raise OSError where there is neither file nor folder to read: nothing, or a FIFO, which would keep us waiting."""
    kind = stat.S_IFMT(os.stat(path).st_mode)
    if kind not in (stat.S_IFREG, stat.S_IFDIR):
        raise OSError(errno.EINVAL, f"it is {_KINDS.get(kind, 'neither')}; expected a file or a folder", str(path))


def check_own(path: Path) -> None:
    """Raise OSError where there is something of this name that is no plain file with this one name."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    _check(path, status)


def make_folder(path: Path) -> None:
    """Make a folder inside one of ours, unless it is there. Raises OSError, also where a link stands in its place."""
    try:
        os.mkdir(path)
    except FileExistsError:
        kind = stat.S_IFMT(os.lstat(path).st_mode)
        if kind != stat.S_IFDIR:
            raise OSError(
                errno.ENOTDIR, f"it is {_KINDS.get(kind, 'no folder')}; expected a folder", str(path)
            ) from None


def _check(path: Path, status: os.stat_result) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        raise OSError(
            errno.EINVAL, f"it is {_KINDS.get(kind, 'no file')}; move it away, a file belongs here", str(path)
        )
    if status.st_nlink > 1:
        advice = f"the file has {status.st_nlink} names (hard links); put a copy here: cp FILE NEW && mv NEW FILE"
        raise OSError(errno.EMLINK, advice, str(path))

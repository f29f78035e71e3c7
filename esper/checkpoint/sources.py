"""Sources of a conversion: which files a user means by a file or a folder, and whether any can be read at all."""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from esper.checkpoint.legacy.file_kind import FileLayout, file_layout
from esper.checkpoint.legacy.pickle_scan import scan_file
from esper.errors import CheckpointError
from esper.printing import printable

SUFFIXES = (".pt", ".pth", ".ckpt")


def find_files(source: Path) -> Iterator[tuple[Path, Path | CheckpointError]]:
    """A file itself, or the files of torch's suffixes in a folder's whole tree, each with its path inside that.

    What may hide files is answered with the error: a folder that cannot be read, a link that leads out of the tree.
    """
    shown = printable(str(source))
    expected = f"expected a torch file, or a folder with {', '.join(SUFFIXES)} files in it."
    try:
        is_folder = stat.S_ISDIR(source.stat().st_mode)
    except OSError as error:
        yield source, CheckpointError(f"{shown}: {error.strerror or error}; {expected}")
        return
    if not is_folder:
        yield source, Path(source.name)
        return
    found = False
    unread: list[OSError] = []
    for name, inner, files in os.walk(source, onerror=unread.append):
        folder = Path(name)
        inner.sort()
        hidden = [folder / each for each in inner if (folder / each).is_symlink() and _leads_out(folder / each, source)]
        for link in hidden:
            yield link, CheckpointError(f"{printable(str(link))} is a link to another folder: name that folder itself.")
        for each in sorted(files):
            if Path(each).suffix in SUFFIXES:
                found = True
                yield folder / each, (folder / each).relative_to(source)
        found |= bool(hidden)
    for lost in unread:
        yield Path(lost.filename), CheckpointError(f"{printable(lost.filename)} cannot be read: {lost.strerror}.")
    if not found and not unread:
        yield source, CheckpointError(f"{shown}: {expected}")


def check_readable(file: Path) -> None:
    """Raise CheckpointError where a file is nothing that torch reads; told without torch where it looks like none."""
    if file_layout(file) is FileLayout.PICKLE:
        scan_file(file)


def refusals(sources: Sequence[Path]) -> list[CheckpointError]:
    """Why none of all these files can be read as one of torch's, file by file; empty where one of them may be."""
    found: list[CheckpointError] = []
    for source in sources:
        for file, inner in find_files(source):
            try:
                if isinstance(inner, CheckpointError):
                    raise inner
                check_readable(file)
            except CheckpointError as error:
                found.append(error)
            else:
                return []
    return found


def _leads_out(link: Path, source: Path) -> bool:
    return not Path(os.path.realpath(link)).is_relative_to(os.path.realpath(source))

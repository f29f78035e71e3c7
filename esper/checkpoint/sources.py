"""Which files a user means by a file or a folder."""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from esper.errors import CheckpointError
from esper.printing import printable


def find_files(source: Path, suffixes: Sequence[str]) -> Iterator[tuple[Path, Path | CheckpointError]]:
    """A file itself, or the files with these suffixes in a folder's whole tree, each with its path inside that.

    What may hide files is answered with the error: a folder that cannot be read, a link that leads out of the tree.
    """
    shown = printable(str(source))
    expected = f"expected a torch file, or a folder with {', '.join(suffixes)} files in it."
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
            if Path(each).suffix in suffixes:
                found = True
                yield folder / each, (folder / each).relative_to(source)
        found |= bool(hidden)
    for lost in unread:
        yield Path(lost.filename), CheckpointError(f"{printable(lost.filename)} cannot be read: {lost.strerror}.")
    if not found and not unread:
        yield source, CheckpointError(f"{shown}: {expected}")


def _leads_out(link: Path, source: Path) -> bool:
    return not Path(os.path.realpath(link)).is_relative_to(os.path.realpath(source))

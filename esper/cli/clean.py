"""`esper clean`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from esper.cli.runs import add_root
from esper.errors import RunError
from esper.printing import complain, say

if TYPE_CHECKING:
    from esper.study.clean import Removable

MOST_NAMED = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is looked at, and whether it goes."""
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="remove these runs, or all of a folder, such as a sweep's (default: failed, interrupted and killed runs "
        "without a checkpoint, attempts that a sweep replaced, and what killed processes left)",
    )
    parser.add_argument("--yes", action="store_true", help="remove it; without, only what would go is shown")
    parser.add_argument(
        "--finished", action="store_true", help="finished runs, too: of those named, and of attempts that were replaced"
    )
    add_root(parser)


def run(options: argparse.Namespace) -> int:
    """Show what would go, or remove it; 2 where something could not be removed."""
    from esper.study.clean import find_removable

    clutter = _named(options) if options.runs else find_removable(options.root, options.finished)
    sizes = [one.size for one in clutter]
    code, freed, goes = 0, 0, 0
    for one, size in zip(clutter, sizes, strict=True):
        try:
            stays = [str(other.relative_to(one.folder)) for other in one.others]
            if options.yes:
                one.remove()
            elif options.runs:
                one.check()
            freed += size
            goes += 1
            say(f"{'removed' if options.yes else 'would go'}  {_spelled(size):>8}  {one.folder}  ({one.why})")
            if stays:
                shown = ", ".join(stays[:MOST_NAMED]) + (", ..." if len(stays) > MOST_NAMED else "")
                say(f"{'left' if options.yes else 'stays':>8}  what no run has written there: {shown}")
        except RunError as error:
            code = complain(error)
    if not clutter and not options.runs:
        say(f"nothing to clean in {options.root}")
    elif goes and not options.yes:
        say(f"{_spelled(freed)} in all; to remove it: the same with --yes")
    return code


def _named(options: argparse.Namespace) -> "list[Removable]":
    """The runs that were named; of a folder of several, all but the finished ones."""
    from esper.study.clean import as_removable
    from esper.study.runs.find import find_folders
    from esper.study.runs.index import settled_row

    folders: dict[Path, None] = {}
    for text in options.runs:
        found = find_folders(text, options.root)
        if len(found) > 1 and not options.finished:
            left = [folder for folder in found if settled_row(folder)["status"] != "finished"]
            if len(left) < len(found):
                say(f"{text}: {len(found) - len(left)} finished of {len(found)} runs stay; they go with --finished")
            found = left
        folders |= dict.fromkeys(found)
    return [as_removable(folder, options.finished) for folder in folders]


def _spelled(size: int) -> str:
    """Bytes as people read them."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size} B"

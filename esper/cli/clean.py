"""`esper clean`."""

import argparse

from esper.cli import complain
from esper.cli.runs import add_root
from esper.errors import RunError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is looked at, and whether it goes."""
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="remove these runs (default: failed, interrupted and killed runs without a checkpoint, attempts that a "
        "sweep replaced, and what killed processes left)",
    )
    parser.add_argument("--yes", action="store_true", help="remove it; without, only what would go is shown")
    parser.add_argument(
        "--finished", action="store_true", help="finished runs, too: of those named, and of attempts that were replaced"
    )
    add_root(parser)


def run(options: argparse.Namespace) -> int:
    """Show what would go, or remove it; 2 where something could not be removed."""
    from esper.study.clean import as_clutter, find_clutter
    from esper.study.find import find_run

    if options.runs:
        folders = dict.fromkeys(find_run(text, options.root) for text in options.runs)
        clutter = [as_clutter(folder, options.finished) for folder in folders]
    else:
        clutter = find_clutter(options.root, options.finished)
    sizes = [one.size for one in clutter]
    code, freed = 0, 0
    for one, size in zip(clutter, sizes, strict=True):
        try:
            if options.yes:
                one.remove()
            freed += size
            print(f"{'removed' if options.yes else 'would go'}  {_spelled(size):>8}  {one.folder}  ({one.why})")
        except RunError as error:
            code = complain(error)
    if not clutter:
        print(f"nothing to clean in {options.root}")
    elif not options.yes:
        print(f"{_spelled(freed)} in all; to remove it: the same with --yes")
    return code


def _spelled(size: int) -> str:
    """Bytes as people read them."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size} B"

"""`esper convert`."""

import argparse
from pathlib import Path

from esper.cli import complain


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which files, and where to."""
    parser.add_argument(
        "sources", nargs="+", type=Path, metavar="OLD", help="torch files, or folders of .pt, .pth and .ckpt files"
    )
    parser.add_argument("folder", type=Path, metavar="NEW_DIR", help="where the converted checkpoints go")
    parser.add_argument(
        "--trust", action="store_true", help="run whatever the files hold: only for files that you made yourself"
    )


def run(options: argparse.Namespace) -> int:
    """Convert file by file; one that cannot be converted is named, and the others go on."""
    from esper.checkpoint.convert import convert_all  # here, since they load torch
    from esper.checkpoint.pickle_machine import printable

    code = 0
    for source, result in convert_all(options.sources, options.folder, trust=options.trust):
        if isinstance(result, Path):
            print(printable(f"{source} → {result}"))
        else:
            code = complain(result)
    return code

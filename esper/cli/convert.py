"""`esper convert`."""

import argparse
from pathlib import Path

from esper.errors import ExitCode
from esper.printing import complain, say


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
    from esper.checkpoint.sources import refusals

    if refused := refusals(options.sources):
        for error in refused:
            complain(error)
        return ExitCode.BAD_INPUT
    from esper.checkpoint.convert import convert_all  # after the check, since it loads torch

    code = 0
    for source, result in convert_all(options.sources, options.folder, trust=options.trust):
        if isinstance(result, Path):
            say(f"{source} → {result}")
        else:
            code = complain(result)
    return code

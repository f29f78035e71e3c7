"""`esper export`."""

import argparse
from pathlib import Path

from esper.cli.runs import add_root
from esper.printing import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of which run and member, and to where."""
    parser.add_argument("run_dir", metavar="RUN", help="a run's folder, or a part of its path that no other run has")
    parser.add_argument(
        "--member",
        default="best",
        metavar="N",
        help="grown members first, then their twins (default: best, the grown one of the highest validation score)",
    )
    parser.add_argument(
        "--to",
        type=Path,
        metavar="FILE",
        help=".pt2 (torch.export), .onnx, or .safetensors with a module file beside it (default: member_N.pt2)",
    )
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    add_root(parser)


def run(options: argparse.Namespace) -> None:
    """Write the file, and say where."""
    from esper.study.runs.find import find_run

    folder = find_run(options.run_dir, options.root)
    from esper.study.export.exporting import export_member, written

    for path in written(export_member(folder, options.member, options.to, options.force)):
        say(path)

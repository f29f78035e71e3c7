"""`esper report`."""

import argparse
from pathlib import Path

from esper.cli.runs import add_root
from esper.printing import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of which runs."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or a part of its path")
    add_root(parser)


def run(options: argparse.Namespace) -> None:
    """Write each run's report.html anew, and say where."""
    from esper.study.runs.find import find_run

    folders = [find_run(text, options.root) for text in options.runs]
    for folder in folders:
        say(write(folder))


def write(folder: Path) -> Path:
    """The report of a run, whatever it made; its path."""
    from esper.forge.records import is_forge_run

    if is_forge_run(folder):
        from esper.forge import report

        return report.write_report(folder)
    from esper.nissa import write_report

    return write_report(folder)

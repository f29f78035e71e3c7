"""`esper resume`."""

import argparse

from esper.cli.runs import add_root


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, and what is to be different from here on."""
    parser.add_argument("run_dir", metavar="RUN", help="a run's folder, or a part of its path that no other run has")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for python -m esper.run resume=RUN")
    add_root(parser)


def run(options: argparse.Namespace) -> int:
    """Continue the run in this process."""
    from esper.study.runs.find import find_run

    folder = find_run(options.run_dir, options.root)
    from esper.forge.records import is_forge_run

    if is_forge_run(folder):
        from esper.forge.__main__ import main
    else:
        from esper.run import main
    return main([f"resume={folder}", *options.overrides])

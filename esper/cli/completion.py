"""`esper completion`."""

import argparse
from pathlib import Path

from esper.printing import say_text

SHELLS = ("bash", "zsh")
_FOLDERS = ("RUN", "RUN|SWEEP", "VERSION|RUN")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """For which shell."""
    parser.add_argument("shell", choices=SHELLS, help='bash: eval "$(esper completion bash)" in ~/.bashrc')


def run(options: argparse.Namespace) -> None:
    """Print the script that a shell completes `esper` by."""
    import shtab

    from esper.cli.commands import build_parser

    parser = build_parser()
    for command in _commands(parser):
        for action in command._actions:
            if action.metavar in _FOLDERS or action.dest == "root":
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
            elif action.type is Path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    say_text(shtab.complete(parser, options.shell))


def _commands(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    subparsers = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return list(subparsers.choices.values())

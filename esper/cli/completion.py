"""`esper completion`."""

import argparse
from pathlib import Path
from typing import Any

from esper.printing import say_text

SHELLS = ("bash", "zsh")
_FOLDERS = ("RUN", "RUN|SWEEP", "VERSION|RUN")
_OPTIONS = "_esper_options"
# Options that are shipped, and those that plugins had when they were last loaded (esper.config.plugins): none is asked.
_WORDS = 'echo "{words}"; cat "${{XDG_CACHE_HOME:-$HOME/.cache}}"/esper/parts/* 2>/dev/null'
_PREAMBLE = {
    # Bash takes what follows a = for a word of its own.
    "bash": """\
_esper_options() {{
  local line="${{COMP_LINE:0:COMP_POINT}}" ending="${{1#=}}"
  local word="${{line##* }}"
  local begun="${{word%"$ending"}}" option
  for option in $(compgen -W "$({words})" -- "$word"); do echo "${{option#"$begun"}}"; done | sort -u
}}
""",
    "zsh": """\
_esper_options() {{
  compadd -- ${{=$({words})}}
}}
""",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """For which shell."""
    parser.add_argument("shell", choices=SHELLS, help='bash: eval "$(esper completion bash)" in ~/.bashrc')


def run(options: argparse.Namespace) -> None:
    """Print the script that a shell completes `esper` by."""
    import shtab

    from esper.cli.commands import RUN, build_parser
    from esper.config.options import groups

    parser = build_parser()
    for command in _commands(parser):
        for action in command._actions:
            if action.metavar in _FOLDERS or action.dest == "root":
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
            elif action.type is Path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    started = _subparsers(parser).choices[RUN]
    started.add_argument("override", nargs="*").complete = dict.fromkeys(SHELLS, _OPTIONS)
    words = _WORDS.format(words=" ".join(f"{group}={name}" for group, names in groups().items() for name in names))
    preamble = {shell: text.format(words=words) for shell, text in _PREAMBLE.items()}
    say_text(shtab.complete(parser, options.shell, preamble=preamble))  # type: ignore[arg-type]


def _commands(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    return list(_subparsers(parser).choices.values())


def _subparsers(parser: argparse.ArgumentParser) -> Any:
    return next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))

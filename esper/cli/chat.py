"""`esper chat`."""

import argparse
import io
import sys
from collections.abc import Iterator

from esper.checks import in_range, whole
from esper.cli.models import find_model
from esper.cli.runs import add_root
from esper.printing import say, say_part

_PROMPT = "> "


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """With which model, and how it answers."""
    parser.add_argument(
        "model",
        metavar="RUN|BUNDLE",
        help="the folder of a forge run (its last phase that passed speaks), or a part of its path; the folder of a "
        "phase; or a bundle",
    )
    parser.add_argument("--temperature", type=float, default=0.8, metavar="T", help="0: always the likeliest token")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn (default: %(default)s)")
    parser.add_argument(
        "--max-new-tokens", type=int, default=200, metavar="N", help="of an answer (default: %(default)s)"
    )
    add_root(parser)


def run(options: argparse.Namespace) -> None:
    """Answer each line of standard input by what may follow it, until the input ends."""
    in_range("--temperature", options.temperature, 0.0, 100.0)
    whole("--seed", options.seed, 0)
    whole("--max-new-tokens", options.max_new_tokens, 1)
    bundle = find_model(options.model, options.root)
    from esper.forge.bundles import load_language_model  # after the check, since it loads torch

    model = load_language_model(bundle)
    is_shown = sys.stdin is not None and sys.stdin.isatty()
    if is_shown:
        say(f"{bundle}: {model.card.phase}; it writes on from each line, seeing no other. Ctrl-D ends.")
    try:
        for prompt in _lines(is_shown):
            for piece in model.stream(prompt, options.max_new_tokens, options.temperature, options.seed):
                say_part(piece)
            say("")
    except KeyboardInterrupt:
        say("")
        raise


def _lines(is_shown: bool) -> Iterator[str]:
    stream = sys.stdin
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="surrogateescape")  # bytes that are no text are the tokenizer's to read
    while True:
        if is_shown:
            say_part(_PROMPT)
        line = "" if stream is None else stream.readline()
        if not line:
            if is_shown:
                say("")
            return
        if prompt := line.rstrip("\n"):
            yield prompt

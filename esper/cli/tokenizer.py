"""`esper tokenizer`."""

import argparse
from pathlib import Path

from esper.checks import in_range
from esper.errors import ConfigError
from esper.printing import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, on what."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    train = commands.add_parser(
        "train", help="make a tokenizer file from text: byte-level BPE, lossless, with specials"
    )
    train.add_argument("text", nargs="+", metavar="TEXT", help="files of text, and folders of them")
    train.add_argument("--vocab", type=int, default=4096, metavar="N", help="tokens, at most (default: %(default)s)")
    train.add_argument("--out", type=Path, required=True, metavar="FILE.json", help="the file to write")


def run(options: argparse.Namespace) -> None:
    """Train, write, and say what came of it."""
    in_range("--vocab", options.vocab, 264, 1 << 20)  # 256 bytes and the specials are always there
    out = options.out.resolve()
    if out.is_dir():
        raise ConfigError(
            f"--out {options.out}: it is a folder; expected a file, such as {options.out / 'tokenizer.json'}"
        )
    if inside := next((path for path in options.text if out.is_relative_to(Path(path).expanduser().resolve())), None):
        raise ConfigError(
            f"--out {options.out}: it would be among the text that it is made of, {inside}; write it elsewhere"
        )
    from esper.files import write_atomic
    from esper.tasks.text.training import train_tokenizer

    definition, size = train_tokenizer(options.text, options.vocab)
    write_atomic(out, definition)
    more = "" if size == options.vocab else f" (fewer than {options.vocab:,}: the text has no more pairs to merge)"
    say(
        f"{options.out}: {size:,} tokens{more}",
        f"  to use it: tokenizer={options.out}, or task.tokenizer={options.out}",
    )

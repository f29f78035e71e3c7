"""`esper tokenizer`."""

import argparse
from pathlib import Path

from esper.checks import in_range
from esper.errors import ConfigError
from esper.printing import say

_LEAST_TOKENS = 264  # 256 bytes and the specials


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, on what."""
    parser.add_argument("action", choices=("train",), help="train: byte-level BPE, which loses nothing of any text")
    parser.add_argument("text", nargs="+", metavar="TEXT", help="files of text, and folders of them")
    parser.add_argument("--vocab", type=int, default=4096, metavar="N", help="tokens, at most (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json", help="the file to write")


def run(options: argparse.Namespace) -> None:
    """Train, write, and say what came of it."""
    in_range("--vocab", options.vocab, _LEAST_TOKENS, 1 << 20)
    out = options.out.expanduser().resolve()
    if out.is_dir():
        raise ConfigError(f"--out {options.out}: it is a folder; expected a file, such as {options.out}/tokenizer.json")
    for path in options.text:
        if out.is_relative_to(Path(path).expanduser().resolve()):
            raise ConfigError(f"--out {options.out}: it would be part of its own text, {path}; write it elsewhere")
    from esper.files import write_atomic
    from esper.tasks.text.training import train_tokenizer

    definition, size = train_tokenizer(options.text, options.vocab)
    write_atomic(out, definition)
    fewer = "" if size == options.vocab else f" (not {options.vocab:,}: the text has no more pairs to merge)"
    say(f"{options.out}: {size:,} tokens{fewer}", f"  to use it: task.tokenizer={options.out}")

"""`esper`: the command line for everything but runs (those are `python -m esper.run`)."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from esper.errors import EsperError

BAD_INPUT = 2
INTERRUPTED = 130
_EXIT_CODES = {
    "audit": "Exit code: 0 the file was audited, whatever was found in it; 2 it could not be; 130 interrupted.",
    "convert": "Exit code: 0 every file was converted; 2 one was not, or the arguments are wrong; 130 interrupted.",
}
_EXAMPLES = {
    "test": "a PPO-style agent saved with values that are not plain",
    "morphogenetic": "a model with a planted seed (GERMINATED)",
    "blending": "a model whose seed blends in (BLENDING)",
    "probationary": "a model whose seed is on probation (PROBATIONARY)",
}


class Parser(argparse.ArgumentParser):
    """Says in two lines what is wrong with the arguments."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"error: {message}\n  see {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 2 bad input, 130 interrupted."""
    parser = Parser(prog="esper", description="Look at and convert checkpoints.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (add_arguments, summary) in COMMANDS.items():
        described = f"{summary[0].upper()}{summary[1:]}."
        add_arguments(commands.add_parser(name, help=summary, description=described, epilog=_EXIT_CODES[name]))
    return run(parser, arguments)


def audit_main(arguments: Sequence[str] | None = None) -> int:
    """`esper audit`, under the name of the script that was called."""
    described = "Say what keeps a torch file from loading with weights_only=True; run nothing in it."
    parser = Parser(description=described, epilog=_EXIT_CODES["audit"])
    _add_audit(parser)
    return run(parser, arguments)


def run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> int:
    """Parse, do what was asked for, and answer what a user can mend in two lines."""
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except EsperError as error:
        return complain(error)
    except KeyboardInterrupt:
        return INTERRUPTED


def complain(error: EsperError) -> int:
    """Print what is wrong and return the exit code of bad input."""
    from esper.config.checks import in_short

    print(f"error: {in_short(str(error))}", file=sys.stderr)
    return BAD_INPUT


def _add_audit(parser: argparse.ArgumentParser) -> None:
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("file", nargs="?", type=Path, metavar="FILE", help="audit this file")
    for name, what in _EXAMPLES.items():
        choice.add_argument(
            f"--generate-{name}",
            dest="example",
            action="store_const",
            const=name,
            help=f"write {what} into the temporary folder and audit it",
        )
    choice.add_argument("--iterative", type=Path, metavar="FILE", help="list all unsafe globals of this file")
    choice.add_argument("--write-docs", type=Path, metavar="PAGE", help="write the page of audit results")
    parser.set_defaults(run=_audit)


def _audit(options: argparse.Namespace) -> None:
    from esper.checkpoint import audit  # here and below, since they load torch

    if options.iterative:
        unsafe = audit.iterative_audit(options.iterative)
        print(f"Unsafe globals of {options.iterative}: {len(unsafe)}")
        print("".join(f"  {name}\n" for name in unsafe), end="")
    elif options.write_docs:
        from esper.checkpoint.atomic import write_atomic
        from esper.forensics import results_page

        write_atomic(options.write_docs, results_page().encode())
        print(f"Wrote {options.write_docs}")
    elif options.example:
        from esper.forensics import generate

        path = generate(options.example)
        print(f"Generated {path}: {_EXAMPLES[options.example]}\n")
        print(audit.format_audit(audit.audit_checkpoint(path)))
    else:
        print(audit.format_audit(audit.audit_checkpoint(options.file)))


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", nargs="+", type=Path, metavar="OLD", help="torch files, or folders of them")
    parser.add_argument("folder", type=Path, metavar="NEW_DIR", help="where the converted checkpoints go")
    parser.add_argument(
        "--trust", action="store_true", help="run whatever the files hold: only for files that you made yourself"
    )
    parser.set_defaults(run=_convert)


def _convert(options: argparse.Namespace) -> int:
    from esper.checkpoint.convert import convert_all

    code = 0
    for source, result in convert_all(options.sources, options.folder, trust=options.trust):
        if isinstance(result, Path):
            print(f"{source} → {result}")
        else:
            code = complain(result)
    return code


# A command: what adds its arguments (and sets `run`, which imports what it needs when called), and what it does.
COMMANDS: dict[str, tuple[Callable[[argparse.ArgumentParser], Any], str]] = {
    "audit": (_add_audit, "say what keeps a torch file from loading with weights_only=True; run nothing in it"),
    "convert": (_add_convert, "write torch files as .safetensors + .json; the files stay as they are"),
}

if __name__ == "__main__":
    sys.exit(main())

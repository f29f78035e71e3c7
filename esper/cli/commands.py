"""The commands of `esper`, and what it answers."""

import argparse
import sys
from collections.abc import Container, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn

from esper import __version__
from esper.checks import did_you_mean
from esper.errors import EsperError, ExitCode, of_machine
from esper.printing import complain, guarded, say

RUN = "run"  # whose words are all esper.run's: overrides, and Hydra's flags
_CODES = "Exit code: 0 done; 2 bad input; 130 interrupted."


@dataclass(frozen=True, slots=True)
class Command:
    """A command of `esper`.

    Its module has `add_arguments(parser)` and `run(options)`, which returns the exit code, or None for 0. Importing it
    must be cheap: what is heavy is imported when `run` is called.
    """

    module: str
    summary: str
    exit_codes: str = _CODES


COMMANDS: dict[str, Command] = {
    "runs": Command("esper.cli.runs", "list runs: how far they are and how well they did"),
    "compare": Command("esper.cli.compare", "set runs side by side: what differs, curves, statistics; as a page, too"),
    "report": Command("esper.cli.report", "write a run's report.html anew"),
    "resume": Command(
        "esper.cli.resume",
        "continue a run that was stopped; the same as python -m esper.run resume=RUN, and a part of its path will do",
        "Exit code: as of a run: 0 done; 1 failed; 2 bad input; 130 interrupted.",
    ),
    "export": Command("esper.cli.export", "write a grown network as .pt2, .onnx or .safetensors, to run without esper"),
    "chat": Command("esper.cli.chat", "let a language model of a forge run write on from what you type, line by line"),
    "evaluate": Command(
        "esper.cli.evaluate",
        "measure what runs have stored, on held-out seeds; what is measured already is kept",
        "Exit code: 0 every seed is measured; 1 one has failed; 2 bad input; 130 interrupted: only the seeds under way "
        "are lost.",
    ),
    "analyze": Command(
        "esper.cli.analyze",
        "compare what was evaluated: means, intervals, differences seed by seed",
        "Exit code: 0 done, and what --require asks for is met; 1 it is not; 2 bad input; 130 interrupted.",
    ),
    "clean": Command(
        "esper.cli.clean",
        "remove what came to nothing: shows what would go, and removes it with --yes",
        "Exit code: 0 done; 2 something could not be removed, or bad input; 130 interrupted.",
    ),
    "audit": Command(
        "esper.cli.audit",
        "say what keeps a torch file from loading with weights_only=True; run nothing in it",
        "Exit code: 0 the file was audited, whatever was found in it; 1 under --strict, where FILE does not load with "
        "weights_only=True; 2 it could not be audited; 130 interrupted.",
    ),
    "convert": Command(
        "esper.cli.convert",
        "write torch files as .safetensors + .json; the files stay as they are",
        "Exit code: 0 every file was converted; 2 one was not, or the arguments are wrong; 130 interrupted.",
    ),
    "tokenizer": Command("esper.cli.tokenizer", "make a tokenizer file from text of your own"),
    "completion": Command("esper.cli.completion", "print what a shell completes these commands by"),
}


class Parser(argparse.ArgumentParser):
    """Says in two lines what is wrong with the arguments, and refers to the help of the command that got them."""

    def parse_known_args(self, *given: Any, **named: Any) -> Any:
        """As argparse does it; what is left over is an error here, where it is known which command got it."""
        options, left = super().parse_known_args(*given, **named)
        if left:
            self.error(f"unrecognized arguments: {' '.join(left)}")
        return options, left

    def error(self, message: str) -> NoReturn:
        say(f"error: {message}", f"  see {self.prog} --help", is_error=True)
        self.exit(ExitCode.BAD_INPUT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 2 bad input, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with guarded():
        parser = build_parser(arguments)
        if not arguments:
            parser.print_help()
            return 0
        if arguments[0] == RUN:
            from esper.run import main as start

            return start(arguments[1:])
        if not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
            return complain(_unknown(arguments[0]))
        return run(parser, arguments)


def audit_main(arguments: Sequence[str] | None = None) -> int:
    """`esper audit`, under the name of the script that was called."""
    parser = Parser()
    _fill(parser, COMMANDS["audit"])
    with guarded():
        return run(parser, arguments)


def build_parser(wanted: Container[str] = frozenset(COMMANDS)) -> Parser:
    """The command line. Only commands in `wanted` are imported and get their arguments."""
    parser = Parser(prog="esper", description="Start runs, and look at them and at their checkpoints.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    commands.add_parser(RUN, help="start a run, or a sweep of runs; the same as python -m esper.run", add_help=False)
    for name, command in COMMANDS.items():
        added = commands.add_parser(name, help=command.summary)
        if name in wanted:
            _fill(added, command)
    return parser


def run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> int:
    """Parse, do what was asked for, and answer what a user can mend in two lines."""
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except EsperError as error:
        return complain(error)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except (OSError, MemoryError) as error:  # the machine's answer, wherever it was met
        return complain(of_machine(error))


def _unknown(command: str) -> EsperError:
    known = [RUN, *COMMANDS]
    hint = did_you_mean(command, known)
    return EsperError(f"esper {command}: no such command{hint}\n  the commands are: {', '.join(known)}")


def _fill(parser: argparse.ArgumentParser, command: Command) -> None:
    module = import_module(command.module)
    parser.description = f"{command.summary[0].upper()}{command.summary[1:]}."
    parser.epilog = command.exit_codes
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)

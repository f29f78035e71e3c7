"""`esper audit`."""

import argparse
from pathlib import Path

from esper.errors import EsperError, ExitCode
from esper.printing import say, say_text

_EXAMPLES = {
    "test": "a PPO agent as esper saves it",
    "legacy": "an agent as it used to be saved (with unsafe values)",
    "morphogenetic": "a model with a planted seed (GERMINATED)",
    "blending": "a model whose seed blends in (BLENDING)",
    "probationary": "a model whose seed is on probation (PROBATIONARY)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be audited: a file, or an example that is made first."""
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("file", nargs="?", type=Path, metavar="FILE", help="audit this torch file, or pickle")
    for name, what in _EXAMPLES.items():
        choice.add_argument(
            f"--generate-{name}",
            dest="example",
            action="store_const",
            const=name,
            help=f"write {what} into the temporary folder and audit it",
        )
    choice.add_argument("--iterative", type=Path, metavar="FILE", help="list all unsafe globals of this file")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where FILE does not load safely")
    choice.add_argument("--write-docs", type=Path, metavar="PAGE", help="write the page of audit results")


def run(options: argparse.Namespace) -> int:
    """Print what keeps the file from loading safely."""
    if not (options.file or options.example or options.iterative or options.write_docs):
        raise EsperError("audit which file?\n  esper audit FILE.pt, or see esper audit --help")
    for file in filter(None, (options.file, options.iterative)):
        from esper.checkpoint.sources import check_readable

        check_readable(file)
    from esper.checkpoint import audit  # here and below, since they load torch

    if options.iterative:
        unsafe = audit.iterative_audit(options.iterative)
        say(f"Unsafe globals of {options.iterative}: {len(unsafe)}", *(f"  {name}" for name in unsafe))
    elif options.write_docs:
        from esper.cli.audit_examples import results_page
        from esper.files import write_atomic

        write_atomic(options.write_docs, results_page().encode())
        say(f"Wrote {options.write_docs}")
    elif options.example:
        from esper.cli.audit_examples import generate

        path = generate(options.example)
        say(f"Generated {path}: {_EXAMPLES[options.example]}", "")
        say_text(audit.format_audit(audit.audit_checkpoint(path)))
    else:
        found = audit.audit_checkpoint(options.file)
        say_text(audit.format_audit(found))
        return ExitCode.FAILED if options.strict and not found["compatible"] else ExitCode.DONE
    return ExitCode.DONE

"""`esper audit`."""

import argparse
from pathlib import Path

_EXAMPLES = {
    "test": "a PPO-style agent saved with values that are not plain",
    "morphogenetic": "a model with a planted seed (GERMINATED)",
    "blending": "a model whose seed blends in (BLENDING)",
    "probationary": "a model whose seed is on probation (PROBATIONARY)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be audited: a file, or an example that is made first."""
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


def run(options: argparse.Namespace) -> None:
    """Print what keeps the file from loading safely."""
    from esper.checkpoint import audit  # here and below, since they load torch

    if options.iterative:
        unsafe = audit.iterative_audit(options.iterative)
        print(f"Unsafe globals of {options.iterative}: {len(unsafe)}")
        print("".join(f"  {name}\n" for name in unsafe), end="")
    elif options.write_docs:
        from esper.files import write_atomic
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

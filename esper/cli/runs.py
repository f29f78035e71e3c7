"""`esper runs`."""

import argparse
import textwrap
from pathlib import Path
from typing import Any

from esper.errors import ConfigError
from esper.leyline import SCORE_KINDS
from esper.printing import say, say_text
from esper.study.runs.folders import ROOT

DEFAULT_LIMIT = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which runs, in which order, as what."""
    from esper.study.runs.query import DERIVED
    from esper.study.runs.rows import COLUMNS

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN|SWEEP",
        help="these alone: a run's folder or a part of its path, or a folder of runs, such as a sweep's (default: all)",
    )
    add_root(parser)
    parser.add_argument(
        "--filter",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="runs for which all of these hold: status=finished, policy=ppo,iql, 'name=digits*', 'test_accuracy>85', "
        "'age<2d', 'optimizer.learning_rate<=0.01'",
    )
    parser.add_argument("--sort", metavar="KEY", help="highest figure first, or first word first (default: newest)")
    parser.add_argument("--reverse", action="store_true", help="the other way round")
    parser.add_argument("--columns", nargs="+", default=[], metavar="KEY", help="show these, too")
    parser.add_argument(
        "--limit", type=int, metavar="N", help=f"at most so many; 0: all (default: {DEFAULT_LIMIT}, with --json all)"
    )
    parser.add_argument("--json", action="store_true", help="all that is known of each, as JSON")
    keys = {name: meaning for name, (_, meaning) in COLUMNS.items()} | DERIVED
    lines = [f"  {name:20}{meaning}" for name, meaning in keys.items()]
    parser.epilog = "\n".join(
        ["keys (and any key of a run's configuration):", *lines, "", *textwrap.wrap(parser.epilog or "", 79)]
    )


def add_root(parser: argparse.ArgumentParser) -> None:
    """Where runs are looked for."""
    parser.add_argument("--root", type=Path, default=Path(ROOT), help=f"folder of the runs (default: {ROOT})")


def run(options: argparse.Namespace) -> None:
    """Print the table, or the JSON."""
    from esper.study.runs.index import read_index
    from esper.study.runs.query import Table, parse_filter

    conditions = [parse_filter(text) for text in options.filter]
    if options.limit is not None and options.limit < 0:
        raise ConfigError(f"--limit {options.limit}: expected 0 (all) or more")
    index = read_index(options.root)
    for note in index.notes:
        say(note, is_error=True)
    for condition in conditions:
        if condition.note:
            say(f"{condition.key}: {condition.note}", is_error=True)
    known = _named(index.rows, options) if options.runs else index.rows
    table = Table(known)
    table.filter(conditions)
    table.sort(options.sort, options.reverse)
    if options.json:
        rows = table.rows[: options.limit or None]
        _print_json([row | {key: table.value(row, key) for key in options.columns} for row in rows])
    else:
        _print_table(table, len(known), options)


def _named(rows: list[dict[str, Any]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of the runs that were named; those outside of the root are read by themselves."""
    from esper.study.runs.find import find_folders
    from esper.study.runs.index import settled_row

    known = {Path(row["path"]).resolve(): row for row in rows}
    folders = dict.fromkeys(found.resolve() for text in options.runs for found in find_folders(text, options.root))
    return [known.get(folder) or settled_row(folder) | {"run": str(folder)} for folder in folders]


def _print_json(rows: list[dict[str, Any]]) -> None:
    import json

    # In ASCII: what a terminal would act on is escaped, and what reads it gets it back.
    lines = ",\n ".join(json.dumps(row) for row in rows)
    say_text(f"[{lines}]")


def _print_table(table: Any, known: int, options: argparse.Namespace) -> None:
    from esper.printing.tables import UNBOUNDED, Console, Text
    from esper.study.runs import listing

    console = aside = Console(width_of_file=UNBOUNDED, soft_wrap=True)
    if not console.is_terminal:  # a file or a pipe gets the table alone, and all of it
        aside = Console(is_error=True, soft_wrap=True)
    limit = DEFAULT_LIMIT if options.limit is None else options.limit
    rows = table.rows[: limit or None]
    if not rows:
        none = f"none of {known:,} runs: {', '.join(options.filter)}" if known else f"no runs in {options.root} yet"
        aside.print(Text(none if known else f"{none}; to start one: python -m esper.run"))
        return
    shown, common = listing.runs_table(table, rows, options.columns, console.width if console is aside else None)
    console.print(shown)
    aside.print()
    for line in listing.reasons(rows):
        aside.print(line)
    is_cut = len(rows) < len(table.rows)
    number = (
        f"{len(rows)} of {len(table.rows):,} runs" if is_cut else "1 run" if len(rows) == 1 else f"{len(rows)} runs"
    )
    footer = [f"{number}: {listing.counts(table.rows)}"]
    if is_cut:
        footer.append("to see all: --limit 0")
    if common:
        footer.append(f"the same of each: {', '.join(common)}")
    scores = [(row[f"test_{kind.name}"], row[f"val_{kind.name}"]) for kind in SCORE_KINDS for row in rows]
    if any(tested is None and validated is not None for tested, validated in scores):
        footer.append("~ on validation, not tested yet")
    aside.print(Text("; ".join(footer), "dim"))

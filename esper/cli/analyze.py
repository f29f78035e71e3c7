"""`esper analyze`."""

import argparse
import sys
from pathlib import Path

from esper.cli.evaluate import DATABASE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which evaluations, what is said of them, and what must hold."""
    parser.add_argument(
        "targets",
        nargs="*",
        metavar="VERSION|RUN",
        help="the beginning of a version's sha256, or a run (with @epoch-N: one checkpoint of it); the first is what "
        "others are compared with (default: everything, best first)",
    )
    parser.add_argument("--suite", metavar="NAME", help="only what this suite says")
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME",
        help="show this, with its interval; may be repeated",
    )
    parser.add_argument("--format", choices=("table", "md", "csv", "json"), default="table", help="of what is printed")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it, as .svg, .png or .pdf")
    parser.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="CONDITION",
        help="METRIC>NUMBER (or <, >=, <=) of every version shown, such as 'test_accuracy>0.7'; may be repeated",
    )
    parser.add_argument(
        "--db", type=Path, default=DATABASE, metavar="FILE", help="SQLite database of results (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    """Print, draw and judge; 1 where something required is not met."""
    from esper.nissa.summary import file_console
    from esper.study.analysis import compare
    from esper.study.analysis_tables import as_csv, as_json, footnote, markdown, print_comparison
    from esper.study.evaluations import Evaluations
    from esper.study.measures import measure
    from esper.study.requirement import Requirement

    requirements = [Requirement.parse(text) for text in options.require]
    metrics = [measure(name).name for name in options.metric]
    with Evaluations(options.db, is_new=False) as database:
        comparisons = compare(database, options.targets, options.suite)
    if options.plot:
        from esper.study.analysis_picture import draw_comparisons

        draw_comparisons(comparisons, metrics, options.plot)
    match options.format:
        case "md":
            print(markdown(comparisons, metrics), end="")
        case "csv":
            print(as_csv(comparisons, metrics), end="")
        case "json":
            print(as_json(comparisons), end="")
        case _:
            console = file_console()
            for comparison in comparisons:
                print_comparison(comparison, metrics, console)
            print(footnote(comparisons) or "nothing was evaluated")
    verdicts = [verdict for requirement in requirements for verdict in requirement.judge(comparisons)]
    if verdicts and options.format == "md":
        print("\n**Required**\n")
    for verdict in verdicts:
        # What programs read stays free of it.
        aside = sys.stderr if options.format in ("csv", "json") else sys.stdout
        print(f"- {verdict.text}" if options.format == "md" else verdict.text, file=aside)
    if options.plot:
        print(f"wrote {options.plot}", file=sys.stdout if options.format == "table" else sys.stderr)
    return int(not all(verdict.is_met for verdict in verdicts))

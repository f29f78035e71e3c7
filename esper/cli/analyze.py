"""`esper analyze`."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from esper.cli.evaluate import DATABASE

MOST_NAMED = 3
_OF_RUNS: dict[str, Any] = {"suite": None, "metric": [], "plot": None, "require": [], "db": DATABASE}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which evaluations, what is said of them, and what must hold."""
    parser.add_argument(
        "targets",
        nargs="*",
        metavar="VERSION|RUN|BUNDLE",
        help="the beginning of a version's sha256, or a run (with @epoch-N: one checkpoint of it); the first is what "
        "others are compared with (default: everything, best first). Of the forge, a run, one of its phases, or a "
        "bundle: what that language model is made of, and comes from",
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
        help="METRIC>NUMBER (or <, >=, <=, =, !=) of every version shown, such as 'test_accuracy>0.7'; may be repeated",
    )
    parser.add_argument(
        "--db", type=Path, default=DATABASE, metavar="FILE", help="SQLite database of results (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    """Print what language models are made of; of evaluations, print, draw and judge: 1 where something is not met."""
    from esper.cli import analyze_models
    from esper.cli.models import models_alone

    if bundles := models_alone(options.targets, options, _OF_RUNS, {}):
        return analyze_models.run(bundles, options.format)
    return _judge(options)


def _judge(options: argparse.Namespace) -> int:
    from esper.printing import say, say_text
    from esper.printing.tables import UNBOUNDED, Console
    from esper.study.analyze.analysis import checkpoints, summarize
    from esper.study.analyze.formats import as_csv, as_json
    from esper.study.analyze.requirement import Requirement
    from esper.study.analyze.tables import footnote, markdown
    from esper.study.analyze.terminal import print_result
    from esper.study.evaluate.database import Evaluations
    from esper.study.evaluate.measures import measure

    requirements = [Requirement.parse(text) for text in options.require]
    metrics = [measure(name).name for name in options.metric]
    with Evaluations(options.db, is_new=False) as database:
        results = summarize(database, options.targets, options.suite)
        runs = checkpoints(database, options.targets)
    if options.plot:
        from esper.study.analyze.picture import draw_results

        draw_results(results, metrics, options.plot)
    match options.format:
        case "md":
            say_text(markdown(results, metrics))
        case "csv":
            say_text(as_csv(results, metrics))
        case "json":
            say_text(as_json(results))
        case _:
            console = Console(width_of_file=UNBOUNDED)
            for result in results:
                print_result(result, metrics, console)
            say(*(footnote(results) or ["every seed has failed" if results else _nothing(options, runs)]))
    if not results and options.format != "table":
        say(_nothing(options, runs), is_error=True)
    verdicts = [verdict for requirement in requirements for verdict in requirement.judge(results)]
    if verdicts and options.format == "md":
        say("", "**Required**", "")
    for verdict in verdicts:
        # What programs read stays free of it.
        is_aside = options.format in ("csv", "json")
        say(f"- {verdict.text}" if options.format == "md" else verdict.text, is_error=is_aside)
    if options.plot:
        say(f"wrote {options.plot}", is_error=options.format != "table")
    return int(not all(verdict.is_met for verdict in verdicts))


def _nothing(options: argparse.Namespace, runs: Sequence[str]) -> str:
    """Of what there are no results, and the command that makes some."""
    what = f"of {', '.join(options.targets)} " if options.targets else ""
    by = f" under the suite {options.suite}" if options.suite else ""
    named = shlex.join(runs) if 0 < len(runs) <= MOST_NAMED else "RUN"
    suite = f" --suite {shlex.quote(options.suite)}" if options.suite else ""
    database = f" --db {shlex.quote(str(options.db))}" if options.db != DATABASE else ""
    return f"nothing {what}was evaluated{by}; to do so: esper evaluate {named}{suite}{database}"

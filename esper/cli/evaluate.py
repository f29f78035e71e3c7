"""`esper evaluate`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.printing import say
from esper.study.runs.folders import ROOT

if TYPE_CHECKING:
    from esper.study.evaluate.database import Measured
    from esper.study.evaluate.stored import Stored

DATABASE = Path(ROOT) / "evaluations.sqlite"
PROBLEMS = 128
_OF_RUNS: dict[str, Any] = {"suite": "default", "seeds": None, "retry_failed": False, "db": DATABASE}
_OF_MODELS: dict[str, Any] = {"text": [], "split": None, "family": [], "problems": PROBLEMS, "json": False}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is evaluated, by which suite, and where results go."""
    parser.add_argument(
        "targets",
        nargs="+",
        metavar="RUN|SWEEP|BUNDLE",
        help="the folder of a run, or of a sweep (or of any runs: every finished one), or part of its path; "
        "@latest (the default), @best:METRIC or @epoch-N: which checkpoint. Of the forge, a run, one of its phases, or "
        "a bundle: a language model",
    )
    of_models = parser.add_argument_group("language models")
    of_models.add_argument(
        "--text", nargs="+", default=[], metavar="PATH", help="measure on these files and folders, each a domain"
    )
    of_models.add_argument("--split", choices=("val", "test"), help="of the run's own text (default: test)")
    of_models.add_argument(
        "--family",
        action="append",
        default=[],
        metavar="NAME",
        help="put these problems to it, too, of all levels; may be repeated",
    )
    of_models.add_argument(
        "--problems", type=_count, default=PROBLEMS, metavar="N", help="of each family and level (default: %(default)s)"
    )
    of_models.add_argument("--json", action="store_true", help="as JSON")
    of_runs = parser.add_argument_group("runs of esper.run")
    of_runs.add_argument(
        "--suite", default="default", help="one of conf/suite, or a file of your own (default: %(default)s)"
    )
    of_runs.add_argument("--seeds", type=_count, metavar="N", help="how many held-out seeds (default: the suite's)")
    of_runs.add_argument("--retry-failed", action="store_true", help="evaluate seeds anew that failed before")
    of_runs.add_argument(
        "--db", type=Path, default=DATABASE, metavar="FILE", help="SQLite database of results (default: %(default)s)"
    )
    parser.add_argument("--root", type=Path, default=Path(ROOT), metavar="DIR", help="where runs lie")


def run(options: argparse.Namespace) -> int:
    """Measure language models; of runs, each target's missing seeds: 1 where one of the seeds asked for has failed."""
    from esper.cli import evaluate_models
    from esper.cli.models import models_alone

    if bundles := models_alone(options.targets, options, _OF_RUNS, _OF_MODELS):
        evaluate_models.run(options, bundles)
        return 0
    return _run_seeds(options)


def _run_seeds(options: argparse.Namespace) -> int:
    from esper.study.evaluate.targets import find_targets

    found = [target for text in options.targets for target in find_targets(text, options.root)]
    from esper.config.suite import read_suite  # after the check, since it loads OmegaConf

    suite = read_suite(options.suite)
    from esper.study.evaluate.database import Evaluations  # from here on torch is loaded
    from esper.study.evaluate.evaluating import evaluate, measured_as, suite_sha256
    from esper.study.evaluate.held_out import check_held_out, seen_seeds
    from esper.study.evaluate.stored import read_stored

    seeds = range(suite.first_seed, suite.first_seed + (options.seeds or suite.seeds))
    targets = [read_stored(target) for target in found]
    for stored in targets:
        seen = seen_seeds(stored.checkpoint)
        check_held_out(seeds, seen, suite.name)
        for lost in seen.unknown:
            say(f"{lost}: it was learned from, and its seeds cannot be read; they are not checked", is_error=True)
    failed = 0
    versions: dict[str, Stored] = {}
    with Evaluations(options.db) as database:
        for stored in targets:
            sha256 = measured_as(stored, suite, database)
            known = database.statuses(sha256, suite_sha256(suite))
            done = ("finished",) if options.retry_failed else ("finished", "failed")
            left = [seed for seed in seeds if known.get(seed) not in done]
            first = versions.setdefault(sha256, stored)
            if first is not stored:
                say(f"{sha256[:8]}  {stored.run}@epoch-{stored.epoch}: {_same(stored, first)}")
                evaluate(stored, suite, (), database)
                continue
            failed += sum(known.get(seed) == "failed" and seed not in left for seed in seeds)
            say(f"{sha256[:8]}  {stored.policy}, {stored.run}@epoch-{stored.epoch}")
            say(f"suite {suite.name}, seeds {seeds[0]} to {seeds[-1]}: {len(left)} of {len(seeds)} to do")
            try:
                for measured in evaluate(stored, suite, left, database):
                    failed += measured.error is not None
                    say(_line(measured))
            except KeyboardInterrupt:
                say("interrupted: the seeds under way are lost, and the same command does the rest", is_error=True)
                raise
    what = " ".join(sha256[:8] for sha256 in versions)
    say(f"to look at: esper analyze {what}" + (f" --db {options.db}" if options.db != DATABASE else ""))
    if failed:
        say(f"{failed} failed; to try them again: --retry-failed", is_error=True)
    return int(failed > 0)


def _same(stored: "Stored", first: "Stored") -> str:
    """Why one version stands for two of the targets."""
    what = "the same checkpoint" if stored.sha256 == first.sha256 else "the same rule, whatever seed its run had"
    return f"{what}: measured once, with {first.run}"


def _line(measured: "Measured") -> str:
    from esper.study.evaluate.measures import MEASURES

    if measured.error is not None:
        return f"  seed {measured.seed}  failed: {measured.error}"
    shown = [
        f"{MEASURES[name].title} {sum(values) / len(values):.{MEASURES[name].decimals}f}{MEASURES[name].unit}"
        for name, values in measured.samples.items()
        if name.startswith("test_")
    ]
    hosts = len(measured.samples["parameters"])
    return f"  seed {measured.seed}  {', '.join(shown)}  ({hosts} hosts, {measured.wall_s:.1f} s)"


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"{text}: expected a number, 1 to 100000")
    return int(text)

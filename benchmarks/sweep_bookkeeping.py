"""What a sweep costs a job beside the job itself: composing, checking, naming, files, lines on the terminal.

    python -m benchmarks.sweep_bookkeeping [--json FILE] [--jobs 200] [--rounds 3]

Sweeps of esper's whole configuration over a task that does nothing, in this process; beside them Hydra's own sweeper,
which keeps no books. A figure is the time that further jobs add, between a sweep of a tenth of the jobs and the whole;
the median of the rounds.
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import hydra
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from esper.config.options import conf_dir
from esper.config.store import register
from esper.runner.task import HydraTask

HYDRAS_OWN = ["hydra/sweeper=basic", "hydra.sweep.subdir=${hydra.job.num}"]
LIMIT_MS = 50.0


def nothing(composed: DictConfig) -> float:
    """The task."""
    return 1.0


def seconds(folder: Path, jobs: int, *overrides: str) -> float:
    """How long a sweep over this many seeds takes, from its command line to its end."""
    sys.argv = ["bookkeeping", "-m", f"seed=range(0,{jobs})", f"hydra.sweep.dir='{folder}'", *overrides]
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        hydra.main(config_path=str(conf_dir()), config_name="config", version_base="1.3")(nothing)()
    return time.perf_counter() - started


def measure(jobs: int) -> dict[str, float]:
    """Milliseconds a job of each kind of sweep."""
    few = jobs // 10
    ways: dict[str, tuple[str, list[str]]] = {
        "Hydra's own sweeper": ("basic", HYDRAS_OWN),
        "a first time": ("mine", []),
        "again, all finished": ("mine", []),
        "dry run": ("mine", ["hydra.sweeper.dry_run=true"]),
    }
    found = {}
    with tempfile.TemporaryDirectory() as root:
        for way, (name, overrides) in ways.items():
            taken = [seconds(Path(root) / f"{name}-{number}", number, *overrides) for number in (few, jobs)]
            found[way] = 1e3 * (taken[1] - taken[0]) / (jobs - few)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ["HYDRA_FULL_ERROR"] = "1"
    register()
    nothing.check = HydraTask.check  # type: ignore[attr-defined]
    rounds = [measure(options.jobs) for _ in range(options.rounds)]
    figures = {way: statistics.median(found[way] for found in rounds) for way in rounds[0]}
    table = Table("sweep", "ms a job", title=f"Bookkeeping of a sweep, {options.jobs} jobs")
    for way, figure in figures.items():
        table.add_row(way, f"{figure:.1f}")
    console = Console()
    console.print(table)
    ours = figures["a first time"]
    console.print(f"{ours:.1f} ms a job; asked for: at most {LIMIT_MS:.0f}")
    if options.json:
        options.json.write_text(json.dumps({"jobs": options.jobs, "ms_per_job": figures}, indent=1) + "\n")
    sys.exit(ours > LIMIT_MS)


if __name__ == "__main__":
    main()

"""A sweep over seeds under each launcher, beside the same runs as commands of their own; start-up counted.

    python -m benchmarks.sweep [--json FILE] [--jobs 32] [--only commands,fused] [OVERRIDE ...]

Each way is one command line in an empty folder (`commands`: one after another), timed from its start to its end. A job
is the default task with one host and no twin; overrides replace that. Afterwards the jobs' metrics are compared with
those of `commands`, or of the first way that ran.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

ONE_HOST = ["engine.members=1", "controls=[]"]
WAYS = {
    "commands": None,
    "sweep": ["hydra/launcher=basic"],
    "local, 2 processes": ["hydra/launcher=local", "hydra.launcher.processes=2"],
    "fused": ["hydra/launcher=fused"],
}


def run(way: str, jobs: int, overrides: list[str], folder: Path) -> float:
    """Seconds that all jobs took in this way."""
    python = [sys.executable, "-m", "esper.run"]
    launcher = WAYS[way]
    if launcher is None:
        lines = [[*python, *overrides, f"seed={seed}", f"hydra.run.dir={folder}/{seed}"] for seed in range(jobs)]
    else:
        lines = [[*python, "-m", *overrides, *launcher, f"seed=range(0,{jobs})", f"hydra.sweep.dir={folder}"]]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    started = time.monotonic()
    for line in lines:
        subprocess.run(line, check=True, cwd=folder, stdout=subprocess.DEVNULL, env=environment)
    return time.monotonic() - started


def losses(folder: Path) -> dict[int, list[list[float]]]:
    """Seed -> epoch by epoch, each member's training and validation loss."""
    found = {}
    for file in folder.glob("*/run.json"):
        seed = json.loads(file.read_text())["seed"]
        lines = [json.loads(line) for line in (file.parent / "metrics.jsonl").read_text().splitlines()]
        found[seed] = [[m[key] for m in line["members"] for key in ("train_loss", "val_loss")] for line in lines[1:]]
    return found


def difference(those: dict[int, list[list[float]]], these: dict[int, list[list[float]]], epochs: int | None) -> float:
    """The largest relative one between the same runs' losses over their first epochs."""
    pairs = (
        (a, b)
        for seed, rows in those.items()
        for first, second in zip(rows[:epochs], these[seed][:epochs], strict=True)
        for a, b in zip(first, second, strict=True)
    )
    return max((abs(a - b) / abs(a) if a else math.inf for a, b in pairs if a != b), default=0.0)


def main() -> None:
    """Run every way, print a table, write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--jobs", type=int, default=32)
    parser.add_argument("--only", default="", help="ways, by the beginnings of their names")
    parser.add_argument("overrides", nargs="*", default=ONE_HOST)
    options = parser.parse_args()
    chosen = [way for way in WAYS if way.startswith(tuple(options.only.split(",")))]
    seconds, seen = {}, {}
    for way in chosen:
        with tempfile.TemporaryDirectory() as folder:
            seconds[way] = run(way, options.jobs, options.overrides, Path(folder))
            seen[way] = losses(Path(folder))
        print(f"{way}: {seconds[way]:.1f} s", flush=True)
    first = chosen[0]
    rows = [
        {
            "way": way,
            "jobs": len(seen[way]),
            "seconds": seconds[way],
            "ratio": seconds[first] / seconds[way],
            "difference_first_epoch": difference(seen[first], seen[way], 1),
            "difference_whole_run": difference(seen[first], seen[way], None),
        }
        for way in chosen
    ]
    table = Table(title=f"{options.jobs} jobs: {' '.join(options.overrides)}")
    for column in ("", "jobs", "s", "s a job", f"times {first}", "difference, epoch 1", "whole run"):
        table.add_column(column, justify="left" if not column else "right")
    for row in rows:
        differences = (f"{row[key]:.1g}" for key in ("difference_first_epoch", "difference_whole_run"))
        table.add_row(
            str(row["way"]),
            str(row["jobs"]),
            f"{row['seconds']:.1f}",
            f"{seconds[str(row['way'])] / options.jobs:.2f}",
            f"{row['ratio']:.2f}",
            *differences,
        )
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

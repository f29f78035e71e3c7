"""The index of runs: 10,000 run folders indexed, listed and filtered.

    python -m benchmarks.index [--json FILE] [--runs 10000] [--rounds 5]

The folders are made first, in a temporary place: sweeps of 200 jobs. Measured is the command as a user calls it, the
start of Python included, without an index and with one; and the same within one process. A figure is the median of its
rounds, the worst beside it.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from esper.study.runs.folders import RUN_FILE
from esper.study.runs.index import INDEX_FILE, read_index
from esper.study.runs.query import Table as Runs
from esper.study.runs.query import parse_filter

SWEEP_JOBS = 200
BLOCK_BYTES = 4096  # as run.json is padded to
FILTER = ["status=finished", "policy=ppo", "test_accuracy>85"]
LIMIT_S = 1.0


def make_runs(root: Path, number: int) -> None:
    """Folders of finished and failed runs, as `esper.runner.directory` leaves them."""
    draw = random.Random(0)
    for index in range(number):
        policy = ("ppo", "heuristic", "static", "random")[index % 4]
        status = "failed" if index % 50 == 0 else "finished"
        folder = root / f"digits_{policy}" / f"sweep-{index // SWEEP_JOBS:08x}" / f"{index:012x}"
        folder.mkdir(parents=True)
        grown, twin = ([draw.uniform(low, low + 10) for _ in range(8)] for low in (82, 75))
        gain = {"mean": 7.0, "low": 6.0, "high": 8.0, "n": 8}
        record = {
            "schema": 1,
            "id": folder.name,
            "uid": f"{index:016x}",
            "name": f"digits_{policy}",
            "sweep": folder.parent.name,
            "status": status,
            "seed": index,
            "epoch": 25,
            "max_epochs": 25,
            "update": 0,
            "max_updates": 0,
            "started_at": f"2026-01-{1 + index % 28:02d}T12:00:00.000+00:00",
            "finished_at": f"2026-01-{1 + index % 28:02d}T12:01:00.000+00:00",
            "wall_s": 60.0,
            "overrides": [f"policy={policy}", f"seed={index}"],
            "options": {"task": "digits", "host": "cnn", "policy": policy},
            "engine": {"kind": "fused", "kernels": "native", "device": "cpu", "threads": 1},
            "error": "CheckpointError: the disk is full" if status == "failed" else None,
            "summary": None
            if status == "failed"
            else {
                "grown": {"test_accuracy": grown, "val_accuracy": grown, "parameters": [2500] * 8},
                "twin": {"test_accuracy": twin, "val_accuracy": twin, "parameters": [1030] * 8},
                "difference": {"test_accuracy": gain, "val_accuracy": gain},
                "seeds": {"planted": 24, "culled": 4, "fossilized": 20},
                "wall_s": 60.0,
            },
            "heartbeat_at": f"2026-01-{1 + index % 28:02d}T12:01:00.000+00:00",
            "pid": index,
            "host": "machine",
            "versions": {"esper": "0.1.0"},
        }
        data = json.dumps(record, indent=1).encode()
        (folder / RUN_FILE).write_bytes(data + b" " * (-len(data) % BLOCK_BYTES))


def forget(root: Path) -> None:
    """Remove the index."""
    for suffix in ("", "-wal", "-shm"):
        Path(f"{root / INDEX_FILE}{suffix}").unlink(missing_ok=True)


def inside(root: Path) -> None:
    """Index, filter and sort within this process."""
    runs = Runs(read_index(root).rows)
    runs.filter(parse_filter(text) for text in FILTER)
    runs.sort("test_accuracy")


def command(root: Path, *arguments: str) -> None:
    """`esper runs`, as a process of its own."""
    subprocess.run(
        [sys.executable, "-m", "esper.cli", "runs", "--root", str(root), *arguments], capture_output=True, check=True
    )


def seconds(work: Callable[[], None], rounds: int, before: Callable[[], None]) -> list[float]:
    """What each round takes, `before` not counted."""
    taken = []
    for _ in range(rounds):
        before()
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_runs(root, options.runs)
        rows = []
        for what, work in (
            ("index, filter, sort, in one process", lambda: inside(root)),
            ("esper runs (the newest 50)", lambda: command(root)),
            (
                "esper runs --filter ... --sort test_accuracy",
                lambda: command(root, "--sort", "test_accuracy", "--filter", *FILTER),
            ),
            ("esper runs --json (all)", lambda: command(root, "--json")),
        ):
            for index, before in (("none yet", lambda: forget(root)), ("there", lambda: None)):
                taken = seconds(work, options.rounds, before)
                rows.append({"what": what, "index": index, "median_s": statistics.median(taken), "worst_s": max(taken)})
    table = Table(title=f"{options.runs:,} runs", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name, side in (("", "left"), ("index", "left"), ("median, s", "right"), ("worst, s", "right"), ("", "left")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for row in rows:
        verdict = "ok" if row["median_s"] <= LIMIT_S else f"above {LIMIT_S:g} s"
        table.add_row(row["what"], row["index"], f"{row['median_s']:.2f}", f"{row['worst_s']:.2f}", verdict)
    Console(width=110, highlight=False).print(table)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

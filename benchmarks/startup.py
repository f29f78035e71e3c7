"""How long commands take before they are at work: seconds and CPU seconds, beside Python's own start and torch's.

    python -m benchmarks.startup [--json FILE] [--rounds 7]

All commands take turns, round by round; a figure is the median of its rounds. `esper runs` lists an empty folder. Of
the smallest run it also says where its CPU seconds go.
"""

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from esper.cli.commands import COMMANDS

LIMITS_S = {"python -m esper.run --help": 1.0} | {f"esper {name} --help": 0.5 for name in COMMANDS}
LIMITS_S |= {"esper --help": 0.5, "esper runs": 0.5}
PYTHON = "python -c pass"
TORCH = "python -c __import__('torch')"
SMOKE = "python -m esper.run debug=smoke"
# Prints the CPU seconds of a run by phase; what is timed is what esper/runner/launch.py calls.
PHASES = """
import json, time
from unittest.mock import patch

spent, started = {}, time.process_time()

def timed(phase, function):
    def call(*arguments, **keywords):
        before = time.process_time()
        try:
            return function(*arguments, **keywords)
        finally:
            spent[phase] = spent.get(phase, 0.0) + time.process_time() - before
    return call

import torch
spent["import of torch"] = time.process_time() - started
started = time.process_time()
import esper.run
from esper.runner import building, launch, run
from esper.builders import population
spent["other imports"] = time.process_time() - started
with (
    patch.object(population, "choose_engine", timed("choice of the engine", population.choose_engine)),
    patch.object(launch, "build_runs", timed("building", launch.build_runs)),
    patch.object(launch, "fit", timed("training and testing", launch.fit)),
    patch.object(run, "write_report", timed("report", run.write_report)),
):
    whole = timed("run", esper.run.main)
    whole(["debug=smoke", "telemetry.console=off"])
spent["building"] -= spent["choice of the engine"]
spent["training and testing"] -= spent["report"]
run_s = spent.pop("run")
spent["composing, and the rest"] = run_s - sum(spent.values()) + spent["import of torch"] + spent["other imports"]
print(json.dumps(spent))
"""


@dataclass(frozen=True)
class Taken:
    """Of one start, in seconds; user and system together are cpu_s."""

    wall_s: float
    cpu_s: float
    said: str


def start(command: str, folder: str) -> Taken:
    """Run it once."""
    words = command.split()
    if words[0] == "esper":
        words = ["python", "-m", "esper.cli", *words[1:]]
    return timed([sys.executable, *words[1:]], folder)


def timed(words: list[str], folder: str) -> Taken:
    """Run it once."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    ended = subprocess.run(words, cwd=folder, capture_output=True, check=False, text=True)
    wall_s, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if ended.returncode:
        sys.exit(f"{words}: {ended.stderr}")
    return Taken(wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, ended.stdout)


def main() -> None:
    """Measure, print a table, write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    commands = [PYTHON, TORCH, SMOKE, *LIMITS_S]
    taken: dict[str, list[Taken]] = {command: [] for command in commands}
    phases: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "outputs").mkdir()
        for _ in range(options.rounds):
            for command, starts in taken.items():
                starts.append(start(command, folder))
            phases.append(json.loads(timed([sys.executable, "-c", PHASES], folder).said))
            shutil.rmtree(Path(folder, "outputs"))
            Path(folder, "outputs").mkdir()
    wall_s = {command: statistics.median(each.wall_s for each in starts) for command, starts in taken.items()}
    cpu_s = {command: statistics.median(each.cpu_s for each in starts) for command, starts in taken.items()}
    table = Table("command", "s", "CPU s", "times torch's import", "asked")
    for command in commands:
        limit = f"<= {LIMITS_S[command]} s" if command in LIMITS_S else ""
        times = f"{cpu_s[command] / cpu_s[TORCH]:.2f}"
        table.add_row(command, f"{wall_s[command]:.3f}", f"{cpu_s[command]:.3f}", times, limit)
    spent_s = {phase: statistics.median(each[phase] for each in phases) for phase in phases[0]}
    of_smoke = Table(SMOKE, "CPU s", "times torch's import")
    for phase, seconds in spent_s.items():
        of_smoke.add_row(phase, f"{seconds:.3f}", f"{seconds / cpu_s[TORCH]:.2f}")
    Console().print(table, of_smoke)
    if options.json:
        options.json.write_text(json.dumps({"wall_s": wall_s, "cpu_s": cpu_s, "smoke_cpu_s": spent_s}, indent=1))


if __name__ == "__main__":
    main()

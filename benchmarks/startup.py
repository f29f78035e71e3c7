"""How long commands take that only say something: seconds, beside Python's own start and `import torch`.

    python -m benchmarks.startup [--json FILE] [--rounds 7]

All commands take turns, round by round; a figure is the median of its rounds. `esper runs` lists an empty folder.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from esper.cli.commands import COMMANDS

LIMITS_S = {"python -m esper.run --help": 1.0} | {f"esper {name} --help": 0.5 for name in COMMANDS}
LIMITS_S |= {"esper --help": 0.5, "esper runs": 0.5}
PYTHON = "python -c pass"


def seconds(command: str, folder: str) -> float:
    """One start of it."""
    words = command.split()
    if words[0] == "esper":
        words = ["python", "-m", "esper.cli", *words[1:]]
    started = time.perf_counter()
    ended = subprocess.run([sys.executable, *words[1:]], cwd=folder, capture_output=True, check=False)
    taken = time.perf_counter() - started
    if ended.returncode:
        sys.exit(f"{command}: {ended.stderr.decode()}")
    return taken


def main() -> None:
    """Measure, print a table, write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    commands = [PYTHON, "python -c __import__('torch')", *LIMITS_S]
    times: dict[str, list[float]] = {command: [] for command in commands}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "outputs").mkdir()
        for _ in range(options.rounds):
            for command, taken in times.items():
                taken.append(seconds(command, folder))
    medians = {command: statistics.median(taken) for command, taken in times.items()}
    table = Table("command", "s", "times Python's start", "asked")
    for command, median in medians.items():
        limit = f"<= {LIMITS_S[command]} s" if command in LIMITS_S else ""
        table.add_row(command, f"{median:.3f}", f"{median / medians[PYTHON]:.1f}", limit)
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(medians, indent=1))


if __name__ == "__main__":
    main()

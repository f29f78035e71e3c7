"""Kill runs, let their calls to the system fail, damage their files, and count what survives.

    python -m benchmarks.torture [--kinds kills,failures,bytes] [--seed 0] [--budget-s 60] [--keep]

Each trial of a seed is the same again. --keep adds the counts to results.json and to docs/reliability.md. The exit code
is 1 where anything was lost, or ended in a traceback.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.torture.bytes import Bytes
from benchmarks.torture.calls import FAILURES, KILLS, Calls, preloaded
from benchmarks.torture.results import Tally, add
from benchmarks.torture.subjects import subjects

TOLD = {
    "kills": "killed at a call to the system, and resumed",
    "failures": "full disk, I/O error or short write at a call to the system, and resumed",
    "bytes": "a file of a run damaged, and everything asked of it",
}


def main() -> int:
    """Torture for as long as the budget lasts; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join(TOLD), help="of %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget-s", type=float, default=60.0, help="seconds for each kind (default: %(default)s)")
    parser.add_argument("--keep", action="store_true", help="add the counts to the results")
    options = parser.parse_args()
    library = preloaded(sys.argv[1:])
    torch.set_num_threads(1)
    tallies = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tortured = subjects(folder)
        makers = {
            "kills": lambda: Calls(library, tortured, folder, KILLS),
            "failures": lambda: Calls(library, tortured, folder, FAILURES),
            "bytes": lambda: Bytes(tortured, folder),
        }
        for kind in options.kinds.split(","):
            trials, tally = makers[kind](), Tally(TOLD[kind], options.seed)
            draw, until = random.Random(f"{kind} {options.seed}"), time.monotonic() + options.budget_s
            while time.monotonic() < until:
                trials.one(draw, tally)
            print(f"{kind}: {tally.tried} tried, {tally.lost} lost, {tally.tracebacks} tracebacks", flush=True)
            print("\n".join(tally.stories), end="\n" * bool(tally.stories), flush=True)
            tallies.append(tally)
    if options.keep:
        add(tallies)
    return int(any(tally.lost or tally.tracebacks for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())

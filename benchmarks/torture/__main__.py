"""Kill runs, let their calls to the system fail, damage their files, and count what survives.

    python -m benchmarks.torture [--kinds kills,times,failures,bytes,values,signed,replaced] [--seed 0]
                                 [--budget-s 60] [--trials N] [--keep]

Each trial of a seed is the same again. --keep adds the counts to results.json and to docs/reliability.md. The exit code
is 1 where anything was lost, or ended in a traceback.
"""

import argparse
import faulthandler
import gc
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.torture.calls import FAILURES, KILLS, TIMES, Calls, preloaded
from benchmarks.torture.mutations import DAMAGES, Mutations
from benchmarks.torture.results import Tally, add
from benchmarks.torture.site import Site
from benchmarks.torture.subjects import KEPT, RULES, subjects

TOLD = {
    "kills": "killed at a call to the system, and resumed",
    "times": "killed at any time, and resumed",
    "failures": "full disk, I/O error or short write at a call to the system, and resumed",
    "bytes": "a file's bytes or lines altered, and everything asked that reads it",
    "values": "a value of another type or size, or a key more or fewer, likewise",
    "signed": "a checkpoint altered and its checksums made right again, likewise",
    "replaced": "a file lost, or a link, a folder, a pipe or hostile bytes in its place, likewise",
}
CALLS = {"kills": KILLS, "times": TIMES, "failures": FAILURES}
IN_MEMORY = Path("/dev/shm")  # where syncing costs nothing


def main() -> int:
    """Torture for as long as the budget lasts; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join(TOLD), help="of %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget-s", type=float, default=60.0, help="seconds for each kind (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first trial, as stories tell it")
    parser.add_argument("--trials", type=int, default=1_000_000, help="at most, of each kind")
    parser.add_argument("--keep", action="store_true", help="add the counts to the results")
    options = parser.parse_args()
    kinds = options.kinds.split(",")
    library = preloaded(sys.argv[1:])
    torch.set_num_threads(1)
    faulthandler.enable()
    tallies = []
    with tempfile.TemporaryDirectory(dir=IN_MEMORY if os.access(IN_MEMORY, os.W_OK) else None) as name:
        folder = Path(name)
        tortured = subjects(folder) if CALLS.keys() & kinds else subjects(folder, (RULES, KEPT))
        site = Site(tortured, folder) if DAMAGES.keys() & kinds else None
        gc.freeze()  # what children share with this process stays shared
        for kind in kinds:
            tally = Tally(TOLD[kind], options.seed)
            trials = Calls(library, tortured.values(), folder, CALLS[kind]) if kind in CALLS else Mutations(site, kind)
            until, number = time.monotonic() + options.budget_s, options.first
            while time.monotonic() < until and number < options.first + options.trials:
                tally.trial = f"{kind} {options.seed} {number}"
                trials.one(random.Random(tally.trial), tally)
                number += 1
            print(f"{kind}: {tally.tried} tried, {tally.lost} lost, {tally.tracebacks} tracebacks", flush=True)
            print("\n".join(tally.stories), end="\n" * bool(tally.stories), flush=True)
            tallies.append(tally)
            if options.keep:
                add(tally)
    return int(any(tally.lost or tally.tracebacks for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())

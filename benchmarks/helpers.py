"""The helpers of learning and keeping against the plain way: gradient statistics, prioritised replay, checkpoints.

    python -m benchmarks.helpers [--json FILE] [--only gradients] [--rounds 15]

All ways of a case take turns, round by round, in one process on one thread; a figure is the median of its rounds, and a
ratio the median of the rounds' ratios. Replay is measured beside TorchRL and tianshou: `pip install -e '.[bench]'`.
"""

import argparse
import importlib.metadata
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import safetensors
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.kept_files import CHECKPOINT_TENSORS, Ways, checkpoint_case, safetensors_case
from benchmarks.peers import ALPHA, BETA, Transitions, tianshou_step, torchrl_step
from esper.engine.state.gradients import row_statistics
from esper.simic.gradient_collector import SeedGradientCollector
from esper.simic.prioritized_buffer import PrioritizedReplayBuffer

MEMBERS, PARAMETERS = 32, 30
SMALL_TENSORS = 1000
CAPACITY, BATCH, STATE_SIZE = 1_000_000, 256, 27
STEPS_PER_ROUND = 50

Times = dict[str, list[float]]


def gradient_loop(gradients: list[Tensor]) -> tuple[float, float, bool, bool]:
    """The same statistics of one network, a parameter at a time."""
    squares, vanishing, exploding = 0.0, 0, 0
    for gradient in gradients:
        norm = gradient.norm().item()
        squares += norm * norm
        vanishing += norm < 1e-7
        exploding += norm > 100.0
    count = len(gradients)
    health = 1 - 0.5 * vanishing / count - 0.8 * exploding / count
    return squares**0.5 / count, min(max(health, 0.0), 1.0), vanishing > 0, exploding > 0


def gradient_cases() -> dict[str, Ways]:
    """Statistics of 32 members from stacks; of one seed with many small parameters from a list."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 8, 3, 3), (8,), (8,), (16, 8), (16,)]
    stacks = [torch.randn(MEMBERS, *shapes[i % 5], generator=generator) for i in range(PARAMETERS)]
    members = [[stack[member] for stack in stacks] for member in range(MEMBERS)]
    parameters = [torch.zeros(shapes[i % 5], requires_grad=True) for i in range(SMALL_TENSORS)]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    collector = SeedGradientCollector()

    def from_stacks() -> list[list[float]]:
        found = row_statistics(stacks)
        return [t.tolist() for t in (found.mean_norm, found.health, found.has_vanishing, found.has_exploding)]

    return {
        f"gradients: {MEMBERS} members x {PARAMETERS} parameters": {
            "a parameter at a time": lambda: [gradient_loop(gradients) for gradients in members],
            "from the stacks": from_stacks,
        },
        f"gradients: a list of {SMALL_TENSORS} small tensors": {
            "a parameter at a time": lambda: gradient_loop([p.grad for p in parameters if p.grad is not None]),
            "collector": lambda: collector.collect(parameters),
        },
    }


def transitions() -> Transitions:
    """A full buffer's worth."""
    rng = np.random.default_rng(0)
    return {
        "states": rng.random((CAPACITY, STATE_SIZE), dtype=np.float32),
        "actions": rng.integers(7, size=CAPACITY),
        "rewards": rng.random(CAPACITY, dtype=np.float32),
        "next_states": rng.random((CAPACITY, STATE_SIZE), dtype=np.float32),
        "dones": rng.random(CAPACITY) < 0.04,
        "priorities": rng.random(CAPACITY),
    }


def replay_case() -> Ways:
    """Sample and update, several times a call."""
    data = transitions()
    new = np.random.default_rng(1).random(BATCH)
    buffer = PrioritizedReplayBuffer(CAPACITY, ALPHA, BETA)
    buffer.extend(*data.values())

    def esper_step() -> None:
        _, indices, _ = buffer.sample(BATCH)
        buffer.update_priorities(indices, new)

    steps = {"esper": esper_step}
    for library, build in (("tianshou", tianshou_step), ("torchrl", torchrl_step)):
        try:
            steps[f"{library} {importlib.metadata.version(library)}"] = build(data, BATCH, new)
        except ImportError as error:
            print(f"{library} is left out ({error}): pip install -e '.[bench]'")
    return {name: lambda step=step: [step() for _ in range(STEPS_PER_ROUND)] for name, step in steps.items()}


def take_turns(ways: Ways, rounds: int) -> Times:
    """Seconds of each way in each round; the first two rounds warm up."""
    times: Times = {name: [] for name in ways}
    for turn in range(rounds + 2):
        for name, work in ways.items():
            started = time.perf_counter()
            kept = work()
            if turn > 1:
                times[name].append(time.perf_counter() - started)
            del kept  # freeing is not counted
    return times


def less_hash(times: Times) -> Times:
    """Save and load without the hash of the same round, which is shown apart."""
    apart = {
        f"{name} without hash": [whole - hashed for whole, hashed in zip(times[name], times["sha256"], strict=True)]
        for name in ("save", "load")
    }
    order = ("raw write", "save without hash", "save", "torch.load", "load without hash", "load", "sha256")
    return {name: (times | apart)[name] for name in order}


def rows_of(case: str, times: Times, baselines: dict[str, str], calls: int = 1) -> list[dict[str, object]]:
    """One row a way; "times" is how often it fits into the time of its baseline."""
    rows = []
    for name, taken in times.items():
        row: dict[str, object] = {"case": case, "way": name, "us": round(1e6 * statistics.median(taken) / calls, 1)}
        if baseline := baselines.get(name):
            row["baseline"] = baseline
            row["times"] = round(statistics.median(b / t for b, t in zip(times[baseline], taken, strict=True)), 2)
        rows.append(row)
    return rows


def show(rows: list[dict[str, object]]) -> None:
    """One case as a table."""
    table = Table(title=str(rows[0]["case"]), title_justify="left")
    for column in ("way", "us", "times as fast", "as"):
        table.add_column(column, justify="left" if column in ("way", "as") else "right")
    for row in rows:
        table.add_row(row["way"], f"{row['us']:,.0f}", str(row.get("times", "")), str(row.get("baseline", "")))
    Console(width=100).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--only", choices=("gradients", "replay", "checkpoint", "safetensors"))
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    measured: list[list[dict[str, object]]] = []
    if options.only in (None, "gradients"):
        for case, ways in gradient_cases().items():
            plain, ours = ways
            measured.append(rows_of(case, take_turns(ways, options.rounds), {ours: plain}))
    if options.only in (None, "replay"):
        times = take_turns(replay_case(), options.rounds)
        case = f"prioritised replay: sample and update, capacity {CAPACITY:,}, batch {BATCH}"
        peers = [name for name in times if name != "esper"]
        fastest = {"esper": min(peers, key=lambda name: statistics.median(times[name]))} if peers else {}
        measured.append(rows_of(case, times, fastest, STEPS_PER_ROUND))
    if options.only in (None, "checkpoint"):
        with tempfile.TemporaryDirectory(dir=".") as folder:
            times = less_hash(take_turns(checkpoint_case(Path(folder)), options.rounds))
        baselines = {name: "raw write" for name in times if "save" in name}
        baselines |= {name: "torch.load" for name in times if name.startswith("load")}
        size = CHECKPOINT_TENSORS * 2**20 / 1e6
        measured.append(rows_of(f"checkpoint of {size:.0f} MB", times, baselines))
    if options.only in (None, "safetensors"):
        with tempfile.TemporaryDirectory(dir=".") as folder:
            times = take_turns(safetensors_case(Path(folder)), options.rounds)
        baselines = {"our write": "save_file", "our read": "load_file, copied"}
        size = CHECKPOINT_TENSORS * 2**20 / 1e6
        measured.append(rows_of(f"safetensors {safetensors.__version__}: a file of {size:.0f} MB", times, baselines))
    for rows in measured:
        show(rows)
    if options.json:
        options.json.write_text(json.dumps([row for rows in measured for row in rows], indent=1))


if __name__ == "__main__":
    main()

"""Training many hosts: a plain PyTorch loop, esper one by one, esper fused, and what esper picks by itself.

    python -m benchmarks.population [--json FILE] [--device cuda] [--cases all] [--rounds 7] [--busy N]

All engines of a case take turns, round by round, in one process, so that a ratio compares like with like on a noisy
machine; a figure is the median of its rounds. `bare` is one network after another with torch's fastest settings (the
better of 1 and all threads, of both memory formats; foreach optimizer). "mixed" has four blueprints in three stages.
--cases: all of them (the usual ones, and an MLP, a residual network, a vision transformer and a decoder), or those of a
host (mlp), or one by its name (digits_cnn-32-mixed).
Peak memory is taken in a process of its own. --busy: with so many processes that do nothing but spin beside it. The
proof, whose cost is shown too, compares the fused step with plain PyTorch before a run. BENCH_THREADS=2 in the
environment fixes the threads of esper's engines.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.population_cases import (
    BLUEPRINTS,
    EPOCH_SAMPLES,
    OPTIMIZER,
    STEPS,
    Case,
    build_models,
    choose_cases,
    data,
    runner,
    timed,
)
from benchmarks.population_memory import budget_mb, peak_mb
from esper.engine.backends.base import Way
from esper.engine.backends.proof import Trial, difference
from esper.engine.population import build

ENGINES = ("bare", "sequential", "fused", "auto")


def proof_s(case: Case, device: str) -> float:
    """Seconds that the comparison with plain PyTorch takes."""
    x, y, _ = data(case, device)
    models = build_models(case, device)

    trial = Trial(models, [OPTIMIZER] * len(models), x[: case.batch], y[: case.batch], build)

    def prove() -> None:
        found = difference(trial, Way("fused"), BLUEPRINTS[models[0].host.topology])
        assert found is None, found

    return statistics.median(timed(prove, device) for _ in range(3))


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Inside, so many other processes spin."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def measure(case: Case, device: str, rounds: int) -> list[dict[str, object]]:
    """One row an engine."""
    engines = [engine for engine in ENGINES if not (engine == "bare" and case.state == "mixed")]
    epochs = {engine: runner(case, engine, device) for engine in engines}
    times: dict[str, list[float]] = {engine: [] for engine in engines}
    for turn in range(rounds + 1):
        for engine, epoch in epochs.items():
            seconds = timed(epoch, device)
            if turn:  # the first round warms up
                times[engine].append(seconds / STEPS)
    rows = []
    for engine in engines:
        step_s = statistics.median(times[engine])
        samples_per_s = case.members * case.batch / step_s
        rows.append(
            {
                "host": case.host,
                "members": case.members,
                "state": case.state,
                "engine": engine,
                "ms_per_step": round(1e3 * step_s, 3),
                "samples_per_s": round(samples_per_s),
                "host_epochs_per_s": round(samples_per_s / EPOCH_SAMPLES, 2),
                "peak_mb": round(peak_mb(case, engine, device), 1),
            }
        )
    return rows


def show(rows: list[dict[str, object]], budget: float) -> None:
    """One case as a table, with every engine's ratio to the first."""
    first = rows[0]
    table = Table(title=f"{first['host']}, {first['members']} members, seeds: {first['state']}", title_justify="left")
    for column in ("engine", "ms a step", "samples/s", "host epochs/s", "peak MB", f"times {first['engine']}"):
        table.add_column(column, justify="left" if column == "engine" else "right")
    for row in rows:
        ratio = first["ms_per_step"] / row["ms_per_step"]
        table.add_row(
            row["engine"],
            f"{row['ms_per_step']:.2f}",
            f"{row['samples_per_s']:,}",
            f"{row['host_epochs_per_s']:.1f}",
            f"{row['peak_mb']:.1f} ({row['peak_mb'] / budget:.2f} of budget)",
            f"{ratio:.2f}",
        )
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--cases", help="all, a host, or a case's name; else the usual ones")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--busy", type=int, default=0, help="so many processes that spin beside it")
    options = parser.parse_args()
    try:
        cases = choose_cases(options.cases, options.device)
    except ValueError as error:
        parser.error(str(error))
    rows = []
    for case in cases:
        with busy(options.busy):
            measured = measure(case, options.device, options.rounds)
            proof = proof_s(case, options.device)
        show(measured, budget_mb(case))
        plain_s = measured[0]["ms_per_step"] / 1e3
        print(f"proof: {proof:.3f} s, {proof / plain_s:.1f} steps of {measured[0]['engine']}\n", flush=True)
        rows += measured
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

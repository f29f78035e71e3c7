"""Training many hosts: a plain PyTorch loop, esper one by one, esper fused, and what esper picks by itself.

    python -m benchmarks.population [--json FILE] [--device cuda] [--only digits_cnn] [--rounds 7] [--busy N]

All engines of a case take turns, round by round, in one process, so that a ratio compares like with like on a noisy
machine; a figure is the median of its rounds. `bare` is one network after another with torch's fastest settings (the
better of 1 and all threads, of both memory formats; foreach optimizer). "mixed" has four blueprints in three stages.
Peak memory is taken in a process of its own. --busy: with so many processes that do nothing but spin beside it. The
proof, whose cost is shown too, compares the fused step with plain PyTorch before a run. BENCH_THREADS=2 in the
environment fixes the threads of esper's engines.
"""

import argparse
import copy
import itertools
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from esper.engine.backends.base import Way
from esper.engine.backends.proof import Trial, difference
from esper.engine.choice import choose_engine
from esper.engine.optimizer import OptimizerConfig
from esper.engine.population import build
from esper.kasmina.host import CNNHost, MorphogeneticModel
from esper.leyline import SeedStage

BATCH = 64
STEPS = 8
THREADS = int(os.environ["BENCH_THREADS"]) if "BENCH_THREADS" in os.environ else None  # measured, unless it is set
EPOCH_SAMPLES = 1088  # the training split of the default task
OPTIMIZER = OptimizerConfig(name="sgd", learning_rate=0.05, momentum=0.9)
BLUEPRINTS = ("conv_light", "depthwise", "attention", "norm")
MIXED_STAGES = (SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.FOSSILIZED)
ENGINES = ("bare", "sequential", "fused", "auto")


@dataclass(frozen=True)
class Case:
    """One host at one number of members."""

    host: str
    in_channels: int
    channels: tuple[int, ...]
    size: int
    members: int
    state: str = "none"


CASES = [
    Case("digits_cnn", 1, (4, 8, 8), 16, 32),
    Case("digits_cnn", 1, (4, 8, 8), 16, 32, "mixed"),
    Case("digits_cnn", 1, (4, 8, 8), 16, 1),
    Case("cnn32", 3, (8, 16, 32), 32, 8),
    Case("cnn32_wide", 3, (32, 64, 128), 32, 8),
]
CUDA_CASES = [
    Case("digits_cnn", 1, (4, 8, 8), 16, 64),
    Case("digits_cnn", 1, (4, 8, 8), 16, 64, "mixed"),
    Case("cnn32", 3, (8, 16, 32), 32, 64),
]


def build_models(case: Case, device: str) -> list[MorphogeneticModel]:
    """The members of a case; "mixed" plants a seed in each slot of each member."""
    models = []
    for member in range(case.members):
        generator = torch.Generator().manual_seed(member)
        host = CNNHost(10, len(case.channels), case.in_channels, case.channels, generator=generator)
        model = MorphogeneticModel(host, device=device)
        if case.state == "mixed":
            for position, slot in enumerate(model.slots):
                plant(model, slot, BLUEPRINTS[(member + position) % 4], MIXED_STAGES[(member // 4 + position) % 3])
        models.append(model)
    return models


def plant(model: MorphogeneticModel, slot: str, blueprint: str, stage: SeedStage) -> None:
    """A seed in the given stage."""
    model.germinate_seed(blueprint, f"{slot}-{blueprint}", slot, "sigmoid", torch.Generator().manual_seed(1))
    held = model.slots[slot]
    held.state.transition(SeedStage.TRAINING)
    if stage is not SeedStage.TRAINING:
        held.start_blending(total_steps=1_000_000)
    if stage is SeedStage.FOSSILIZED:
        held.state.transition(SeedStage.PROBATIONARY)
        held.state.transition(SeedStage.FOSSILIZED)


def data(case: Case, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and an order."""
    generator = torch.Generator().manual_seed(0)
    count = BATCH * STEPS
    x = torch.randn(count, case.in_channels, case.size, case.size, generator=generator)
    y = torch.randint(10, (count,), generator=generator)
    return x.to(device), y.to(device), torch.randperm(count, generator=generator).to(device)


class Bare:
    """Networks written and trained the plain way, one after another."""

    def __init__(self, case: Case, device: str, threads: int, memory_format: torch.memory_format) -> None:
        self.threads, self.memory_format = threads, memory_format
        self.networks = []
        for member in range(case.members):
            torch.manual_seed(member)
            widths = (case.in_channels, *case.channels)
            layers: list[nn.Module] = []
            for index, (before, width) in enumerate(itertools.pairwise(widths)):
                layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                layers += [nn.MaxPool2d(2)] if index < len(case.channels) - 1 else []
            network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))
            network = network.to(device, memory_format=memory_format)
            optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, foreach=True)
            self.networks.append((network, optimizer))

    def epoch(self, x: Tensor, y: Tensor, order: Tensor) -> None:
        """Each network in turn through all minibatches."""
        torch.set_num_threads(self.threads)
        for network, optimizer in self.networks:
            for index in order.split(BATCH):
                batch = x[index].contiguous(memory_format=self.memory_format)
                optimizer.zero_grad()
                F.cross_entropy(network(batch), y[index]).backward()
                optimizer.step()
        torch.set_num_threads(os.cpu_count() or 1)


def fastest_bare(case: Case, device: str, x: Tensor, y: Tensor, order: Tensor) -> Bare:
    """The best of torch's settings on this machine."""
    one = Case(case.host, case.in_channels, case.channels, case.size, 1)
    formats = (torch.contiguous_format, torch.channels_last)
    settings = list(itertools.product(sorted({1, os.cpu_count() or 1}), formats))
    candidates = {setting: Bare(one, device, *setting) for setting in settings}
    times = {s: min(timed(lambda b=b: b.epoch(x, y, order), device) for _ in range(4)) for s, b in candidates.items()}
    return Bare(case, device, *min(times, key=times.__getitem__))


def timed(work: Callable[[], object], device: str) -> float:
    """Seconds."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def runner(case: Case, engine: str, device: str) -> Callable[[], object]:
    """One epoch of the case on an engine, as a call."""
    x, y, order = data(case, device)
    if engine == "bare":
        bare = fastest_bare(case, device, x, y, order)
        return lambda: bare.epoch(x, y, order)
    precision = torch.bfloat16 if device == "cuda" else torch.float32
    models = build_models(case, device)
    population, reason = choose_engine(models, OPTIMIZER, x[:BATCH], y[:BATCH], precision, engine, THREADS)
    print(f"  {engine}: {population.engine.kind}, {torch.get_num_threads()} threads ({reason})", flush=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)

    def epoch() -> None:
        torch.set_num_threads(threads)
        population.train_epoch(x, y, order, BATCH)
        torch.set_num_threads(os.cpu_count() or 1)

    return epoch


def proof_s(case: Case, device: str) -> float:
    """Seconds that the comparison with plain PyTorch takes."""
    x, y, _ = data(case, device)
    models = build_models(case, device)

    trial = Trial(models, [OPTIMIZER] * len(models), x[:BATCH], y[:BATCH], build)

    def prove() -> None:
        found = difference(trial, Way("fused"), BLUEPRINTS)
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


def peak_mb(case: Case, engine: str, device: str) -> float:
    """Memory that building and training add to the process, at its peak."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure_peak, (case, engine, device))


def _measure_peak(case: Case, engine: str, device: str) -> float:
    small = Case(case.host, case.in_channels, case.channels, case.size, 1, case.state)
    for _ in range(2):
        runner(small, engine, device)()  # libraries load and code pages in before the count begins
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        _train_twice(case, engine, device)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status_kb("VmRSS")
    _train_twice(case, engine, device)
    return (_status_kb("VmHWM") - before) * 1024 / 1e6


def _train_twice(case: Case, engine: str, device: str) -> None:
    epoch = runner(case, engine, device)
    epoch()
    epoch()


def _status_kb(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def budget_mb(case: Case) -> float:
    """Data, and for every member its weights, gradients, momentum and what a step's backward pass keeps."""
    x, y, order = data(case, "cpu")
    model = copy.deepcopy(
        build_models(Case(case.host, case.in_channels, case.channels, case.size, 4, case.state), "cpu")[0]
    )
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = F.cross_entropy(model(x[:BATCH].clone()), y[:BATCH])
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    activations = sum(size for pointer, size in kept.items() if pointer not in parameters)
    del loss
    return (
        sum(t.numel() * t.element_size() for t in (x, y, order)) + case.members * (3 * weights + buffers + activations)
    ) / 1e6


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
        samples_per_s = case.members * BATCH / step_s
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
    parser.add_argument("--only", help="this host alone")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--busy", type=int, default=0, help="so many processes that spin beside it")
    options = parser.parse_args()
    rows = []
    for case in CUDA_CASES if options.device == "cuda" else CASES:
        if options.only in (None, case.host):
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

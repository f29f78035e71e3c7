"""Cases of `benchmarks.population`: members, data, and an epoch of each engine that trains them."""

import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper.engine.choice import choose_engine
from esper.engine.optimizer import OptimizerConfig
from esper.kasmina.host import CNNHost, MorphogeneticModel
from esper.leyline import SeedStage

BATCH = 64
STEPS = 8
THREADS = int(os.environ["BENCH_THREADS"]) if "BENCH_THREADS" in os.environ else None  # measured, unless it is set
EPOCH_SAMPLES = 1088  # the training split of the default task
OPTIMIZER = OptimizerConfig(name="sgd", learning_rate=0.05, momentum=0.9)
BLUEPRINTS = ("conv_light", "depthwise", "attention", "norm")
MIXED_STAGES = (SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.FOSSILIZED)


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

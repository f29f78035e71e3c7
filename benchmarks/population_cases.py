"""Cases of `benchmarks.population`: members, data, and an epoch of each engine that trains them."""

import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper.engine.choice import choose_engine
from esper.engine.optimizer import OptimizerConfig
from esper.kasmina.base import Host
from esper.kasmina.decoder import Decoder
from esper.kasmina.host import CNNHost, MorphogeneticModel
from esper.kasmina.mlp import MLPHost
from esper.kasmina.resnet import ResNetHost
from esper.kasmina.vit import ViTHost
from esper.leyline import SeedStage

BATCH = 64
STEPS = 8
THREADS = int(os.environ["BENCH_THREADS"]) if "BENCH_THREADS" in os.environ else None  # measured, unless it is set
EPOCH_SAMPLES = 1088  # the training split of the default task
OPTIMIZER = OptimizerConfig(name="sgd", learning_rate=0.05, momentum=0.9)
BLUEPRINTS = {  # of a topology, the four that are mixed
    "cnn": ("conv_light", "depthwise", "attention", "norm"),
    "mlp": ("bottleneck", "hidden", "gated", "norm"),
    "transformer": ("lora", "mlp", "attention", "norm"),
}
MIXED_STAGES = (SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.FOSSILIZED)


@dataclass(frozen=True)
class CaseHost:
    """A host, and what it is fed: examples of this shape, of numbers, or of tokens where it reads as many kinds."""

    build: Callable[[torch.Generator], Host]
    shape: tuple[int, ...]
    batch: int = BATCH
    tokens: int = 0
    channels: tuple[int, ...] = ()  # of convolutions, where the plain network is written out


def _cnn(in_channels: int, channels: tuple[int, ...], size: int) -> CaseHost:
    def build(generator: torch.Generator) -> Host:
        return CNNHost(10, len(channels), in_channels, channels, generator=generator)

    return CaseHost(build, (in_channels, size, size), channels=channels)


HOSTS = {
    "digits_cnn": _cnn(1, (4, 8, 8), 16),
    "cnn32": _cnn(3, (8, 16, 32), 32),
    "cnn32_wide": _cnn(3, (32, 64, 128), 32),
    "mlp": CaseHost(lambda generator: MLPHost(10, 256, generator=generator), (1, 16, 16)),
    "resnet": CaseHost(lambda generator: ResNetHost(generator=generator), (3, 32, 32)),
    "vit": CaseHost(lambda generator: ViTHost(10, (1, 16, 16), 4, 32, 2, 3, generator), (1, 16, 16)),
    "decoder": CaseHost(lambda generator: Decoder(256, 32, 2, 3, 64, None, generator=generator), (64,), 16, 256),
}


@dataclass(frozen=True)
class Case:
    """One host of HOSTS at one number of members."""

    host: str
    members: int
    state: str = "none"

    @property
    def name(self) -> str:
        """As it is asked for."""
        return f"{self.host}-{self.members}" + (f"-{self.state}" if self.state != "none" else "")

    @property
    def batch(self) -> int:
        """Examples of a minibatch."""
        return HOSTS[self.host].batch


CASES = [
    Case("digits_cnn", 32),
    Case("digits_cnn", 32, "mixed"),
    Case("digits_cnn", 1),
    Case("cnn32", 8),
    Case("cnn32_wide", 8),
]
MORE_CASES = [Case("mlp", 32), Case("mlp", 32, "mixed"), Case("resnet", 8), Case("vit", 8), Case("decoder", 8)]
CUDA_CASES = [Case("digits_cnn", 64), Case("digits_cnn", 64, "mixed"), Case("cnn32", 64)]


def choose_cases(asked: str | None, device: str) -> list[Case]:
    """The usual ones; "all" of them; else those whose host or name this is. Raises ValueError where there is none."""
    usual, every = (CUDA_CASES, CUDA_CASES) if device == "cuda" else (CASES, CASES + MORE_CASES)
    if asked is None:
        return usual
    found = [case for case in every if asked in ("all", case.host, case.name)]
    if not found:
        raise ValueError(f"no case {asked!r}: all, or one of {', '.join(case.name for case in every)}, or its host")
    return found


def build_models(case: Case, device: str) -> list[MorphogeneticModel]:
    """The members of a case; "mixed" plants a seed in each slot of each member."""
    models = []
    for member in range(case.members):
        model = MorphogeneticModel(HOSTS[case.host].build(torch.Generator().manual_seed(member)), device=device)
        if case.state == "mixed":
            for position, slot in enumerate(model.slots):
                blueprints = BLUEPRINTS[model.host.topology]
                plant(model, slot, blueprints[(member + position) % 4], MIXED_STAGES[(member // 4 + position) % 3])
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
    """Examples, labels and an order."""
    host, generator = HOSTS[case.host], torch.Generator().manual_seed(0)
    count = host.batch * STEPS
    if host.tokens:
        x, y = torch.randint(host.tokens, (2, count, *host.shape), generator=generator)
    else:
        x = torch.randn(count, *host.shape, generator=generator)
        y = torch.randint(10, (count,), generator=generator)
    return x.to(device), y.to(device), torch.randperm(count, generator=generator).to(device)


def plain_network(host: CaseHost, member: int) -> nn.Module:
    """Convolutions written the plain way; other hosts are plain networks as long as they have no slots."""
    if not host.channels:
        return host.build(torch.Generator().manual_seed(member))
    torch.manual_seed(member)
    widths = (host.shape[0], *host.channels)
    layers: list[nn.Module] = []
    for index, (before, width) in enumerate(itertools.pairwise(widths)):
        layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if index < len(host.channels) - 1 else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))


class Bare:
    """Networks written and trained the plain way, one after another."""

    def __init__(self, case: Case, device: str, threads: int, memory_format: torch.memory_format) -> None:
        self.threads, self.memory_format, self.batch = threads, memory_format, case.batch
        self.networks = []
        for member in range(case.members):
            network = plain_network(HOSTS[case.host], member).to(device, memory_format=memory_format)
            optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, foreach=True)
            self.networks.append((network, optimizer))

    def epoch(self, x: Tensor, y: Tensor, order: Tensor) -> None:
        """Each network in turn through all minibatches."""
        torch.set_num_threads(self.threads)
        for network, optimizer in self.networks:
            for index in order.split(self.batch):
                batch = x[index].contiguous(memory_format=self.memory_format)
                optimizer.zero_grad()
                cross_entropy(network(batch), y[index]).backward()
                optimizer.step()
        torch.set_num_threads(os.cpu_count() or 1)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """logits [B, K] of labels [B], or [B, T, K] of tokens [B, T]."""
    return F.cross_entropy(logits.flatten(0, -2), y.flatten())


def fastest_bare(case: Case, device: str, x: Tensor, y: Tensor, order: Tensor) -> Bare:
    """The best of torch's settings on this machine."""
    one = replace(case, members=1)
    formats = (torch.contiguous_format, torch.channels_last) if x.dim() == 4 else (torch.contiguous_format,)
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
    population, reason = choose_engine(models, OPTIMIZER, x[: case.batch], y[: case.batch], precision, engine, THREADS)
    print(f"  {engine}: {population.engine.kind}, {torch.get_num_threads()} threads ({reason})", flush=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)

    def epoch() -> None:
        torch.set_num_threads(threads)
        population.train_epoch(x, y, order, case.batch)
        torch.set_num_threads(os.cpu_count() or 1)

    return epoch

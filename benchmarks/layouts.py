"""Ways to run one training pass of many small convolutional networks, side by side, and the limit of the machine.

    python -m benchmarks.layouts [--json FILE] [--compile] [--rounds 15] [--only cnn32] [--cpu-time]

The networks are the default host without its head: blocks of convolution, batch norm, ReLU and pooling. The ways take
turns, round by round; a figure is the median. The limit is the arithmetic of the pass at the rate of a large matrix
product on the same threads. --cpu-time: one thread, the least that it worked in any round, which means something on a
busy machine, too.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from esper.engine.kernels.block import BlockSpec, BlockTensors, _torch_block, block

BATCH = 64
HOSTS = {
    "digits_cnn": (1, (4, 8, 8), 16, 32),
    "cnn32": (3, (8, 16, 32), 32, 8),
    "cnn32_wide": (3, (32, 64, 128), 32, 8),
}


class Host:
    """Weights of M networks, and one minibatch."""

    def __init__(self, in_channels: int, channels: tuple[int, ...], size: int, members: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.size, self.members, self.widths = size, members, (in_channels, *channels)
        self.pools = [True] * (len(channels) - 1) + [False]
        self.weights = [
            (0.2 * torch.randn(members, after, before, 3, 3, generator=generator)).requires_grad_()
            for before, after in zip(self.widths, channels, strict=False)
        ]
        self.gammas = [torch.ones(members, width, requires_grad=True) for width in channels]
        self.betas = [torch.zeros(members, width, requires_grad=True) for width in channels]
        self.statistics = [(torch.zeros(members, w), torch.ones(members, w)) for w in channels]
        self.x = torch.randn(BATCH, in_channels, size, size, generator=generator)
        self.leaves = [*self.weights, *self.gammas, *self.betas]

    def flops(self) -> int:
        """Multiply-adds of convolutions count two; backward costs two forward passes, but one for the first layer."""
        total, size = 0, self.size
        for index, pooled in enumerate(self.pools):
            macs = self.widths[index] * self.widths[index + 1] * 9 * size * size * BATCH * self.members
            total += 2 * macs * (3 if index else 2)
            size = size // 2 if pooled else size
        return total


def blocks(host: Host, run: Callable[..., Tensor]) -> Callable[[], Tensor]:
    """[M, C, H, W, N]: esper's layout, by its native kernels or by torch operations (unfold, batched product)."""
    lanes = host.x.permute(1, 2, 3, 0).contiguous().unsqueeze(0)

    def forward() -> Tensor:
        h = lanes
        for index, pool in enumerate(host.pools):
            tensors = BlockTensors(
                host.weights[index], None, host.gammas[index], host.betas[index], *host.statistics[index]
            )
            h = run(BlockSpec(3, norm=True, relu=True, pool=pool), h, tensors, True)
        return h

    return forward


def grouped(host: Host, memory_format: torch.memory_format) -> Callable[[], Tensor]:
    """[N, M C, H, W]: members folded into the channels of grouped convolutions; the first is dense."""
    x = host.x.contiguous(memory_format=memory_format)

    def forward() -> Tensor:
        h = x
        for index, pool in enumerate(host.pools):
            weight = host.weights[index].flatten(0, 1).contiguous(memory_format=memory_format)
            h = F.conv2d(h, weight, padding=1, groups=host.members if index else 1)
            mean, var = (t.flatten() for t in host.statistics[index])
            h = F.relu(F.batch_norm(h, mean, var, host.gammas[index].flatten(), host.betas[index].flatten(), True))
            h = F.max_pool2d(h, 2) if pool else h
        return h

    return forward


def vmapped(host: Host) -> Callable[[], Tensor]:
    """torch.func.vmap over the members; batch norm without running statistics, which vmap cannot update in place."""

    def one(weights: list[Tensor], gammas: list[Tensor], betas: list[Tensor]) -> Tensor:
        h = host.x
        for weight, gamma, beta, pool in zip(weights, gammas, betas, host.pools, strict=True):
            h = F.relu(F.batch_norm(F.conv2d(h, weight, padding=1), None, None, gamma, beta, True))
            h = F.max_pool2d(h, 2) if pool else h
        return h

    return lambda: torch.func.vmap(one)(host.weights, host.gammas, host.betas)


def one_by_one(host: Host) -> Callable[[], Tensor]:
    """Plain layers, one network after another."""
    flat = [tuple(t.flatten() for t in pair) for pair in host.statistics]

    def forward() -> Tensor:
        outs = []
        for member in range(host.members):
            h = host.x
            for index, pool in enumerate(host.pools):
                width = host.widths[index + 1]
                mean, var = (t[member * width : (member + 1) * width] for t in flat[index])
                h = F.conv2d(h, host.weights[index][member], padding=1)
                h = F.relu(F.batch_norm(h, mean, var, host.gammas[index][member], host.betas[index][member], True))
                h = nn.functional.max_pool2d(h, 2) if pool else h
            outs.append(h)
        return torch.stack(outs)

    return forward


def peak_flops_per_s(clock: Callable[[], float]) -> float:
    """Of a large float32 matrix product on all threads."""
    a = torch.randn(2048, 2048)
    times = []
    for _ in range(8):
        started = clock()
        a @ a
        times.append(clock() - started)
    return 2 * 2048**3 / min(times)


def measure(host: Host, rounds: int, with_compile: bool, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Way -> milliseconds of a forward and backward pass, round by round."""
    ways = {
        "one by one": one_by_one(host),
        "vmap": vmapped(host),
        "grouped, contiguous": grouped(host, torch.contiguous_format),
        "grouped, channels_last": grouped(host, torch.channels_last),
        "unfold + batched product": blocks(host, _torch_block),
        "native kernels": blocks(host, block),
    }
    if with_compile:
        ways["grouped, channels_last, compiled"] = torch.compile(grouped(host, torch.channels_last))
    times: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 2):
        for way, forward in ways.items():
            started = clock()
            torch.autograd.grad(forward().sum(), host.leaves)
            if turn > 1:
                times[way].append(1e3 * (clock() - started))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--compile", action="store_true", help="torch.compile as well (its compilation takes minutes)")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", choices=HOSTS, help="this host alone")
    parser.add_argument("--cpu-time", action="store_true", help="of one thread, the least of all rounds")
    options = parser.parse_args()
    torch.set_num_threads(1 if options.cpu_time else os.cpu_count() or 1)
    clock, typical = (time.thread_time, min) if options.cpu_time else (time.perf_counter, statistics.median)
    rate, rows = peak_flops_per_s(clock), []
    for name, shape in HOSTS.items():
        if options.only not in (None, name):
            continue
        host = Host(*shape)
        limit_ms = 1e3 * host.flops() / rate
        table = Table(
            title=f"{name}, {host.members} members, batch {BATCH}: limit {limit_ms:.2f} ms", title_justify="left"
        )
        for column in ("way", "ms a pass", "times one by one", "share of the limit"):
            table.add_column(column, justify="left" if column == "way" else "right")
        measured = measure(host, options.rounds, options.compile, clock)
        times = {way: typical(taken) for way, taken in measured.items()}
        for way, ms in times.items():
            table.add_row(way, f"{ms:.2f}", f"{times['one by one'] / ms:.2f}", f"{100 * limit_ms / ms:.0f}%")
            rows.append(
                {"host": name, "members": host.members, "way": way, "ms": round(ms, 3), "limit_ms": round(limit_ms, 3)}
            )
        Console(width=110).print(table)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

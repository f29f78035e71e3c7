"""A generation of ten merges as one program beside the same ten, each merged, loaded and run for itself.

    python -m benchmarks.merging [--json FILE] [--threads 1] [--windows 1 8 16] [--rounds 5]

Both ways take turns, round by round; a figure is the median of its rounds, the ratio that of the rounds' ratios. The
limit is the arithmetic of the models' products alone, at the rate of a large matrix product on the same threads.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from esper.forge.evomerge.evaluating import MergeEvaluator, Windows, state_of
from esper.forge.evomerge.groups import group_names, layer_groups
from esper.forge.evomerge.methods import task_vectors
from esper.kasmina.decoder import Decoder
from esper.tasks.task import named_generator

CANDIDATES, EXPERTS, DOMAINS = 10, 3, 3
SMALL = {"vocab_size": 264, "n_embd": 128, "n_head": 4, "n_layer": 4, "block_size": 128}


def measure_generation(windows: int, rounds: int = 5, sizes: dict[str, int] = SMALL) -> dict[str, Any]:
    """Seconds for a generation by either way, their ratio, and how far their losses are apart.

    Args: windows: of each of three domains; they hold random tokens, which cost what others do.
    """
    evaluator = _evaluator(windows, sizes)
    count = EXPERTS * len(group_names(layer_groups(state_of(Decoder(**sizes)))))
    points = 1 / EXPERTS + 0.15 * torch.randn(CANDIDATES, count, generator=named_generator(0, "points"))
    ways = {"together": evaluator.window_nats, "one_by_one": evaluator.window_nats_one_by_one}
    times: dict[str, list[float]] = {name: [] for name in ways}
    losses = {name: way(points) for name, way in ways.items()}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(_seconds(lambda way=way: way(points)))
    difference = (losses["together"] - losses["one_by_one"]).abs().max() / sizes["block_size"]
    return {
        "threads": torch.get_num_threads(),
        "windows": windows,
        "together_s": statistics.median(times["together"]),
        "one_by_one_s": statistics.median(times["one_by_one"]),
        "ratio": statistics.median(one / all_ for all_, one in zip(*times.values(), strict=True)),
        "limit_s": _limit_s(len(evaluator.windows.x), sizes),
        "difference_nats_per_token": float(difference),
    }


def _evaluator(windows: int, sizes: dict[str, int]) -> MergeEvaluator:
    trunk, *experts = (
        state_of(Decoder(**sizes, generator=named_generator(number, "model"))) for number in range(1 + EXPERTS)
    )
    generator, length = named_generator(0, "tokens"), sizes["block_size"]
    streams = {
        str(domain): torch.randint(256, (windows * length + 1,), generator=generator) for domain in range(DOMAINS)
    }
    drawn = Windows.spread(streams, length, windows, torch.ones(sizes["vocab_size"], dtype=torch.int64))
    return MergeEvaluator(Decoder(**sizes), trunk, task_vectors(trunk, experts), layer_groups(trunk), drawn)


def _limit_s(windows: int, sizes: dict[str, int], side: int = 1024) -> float:
    """Time of the weights' products, of a generation, were they one large one."""
    left, right = torch.randn(2, side, side)
    rate = 2 * side**3 / min(_seconds(lambda: left @ right) for _ in range(10))
    weights = sum(parameter.numel() for parameter in Decoder(**sizes).parameters())
    return 2 * weights * CANDIDATES * windows * sizes["block_size"] / rate


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--windows", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = [measure_generation(windows, options.rounds) for windows in options.windows]
    table = Table(*(name.replace("_", " ") for name in found[0]))
    for row in found:
        table.add_row(*(f"{value:.3g}" for value in row.values()))
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()

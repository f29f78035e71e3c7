"""The forge's runs and speeds, and docs/forge.md out of them.

    python -m benchmarks.forge [--size small] [--seeds 1] [--controls gates] [--out outputs/forge] [--no-speed]

Runs that are there already are gone on with, or taken as they are. Speeds: specialists side by side, a generation of
merges, packed decoders, loading; the ways of each take turns in one process.
"""

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.forge_page import write_page
from benchmarks.merging import measure_generation
from benchmarks.ternary import packed_speed
from esper import load_language_model
from esper.forge.training import next_token_loss
from esper.kasmina.decoder import Decoder
from esper.printing import say
from esper.tasks.task import named_generator

SMALL = {"vocab_size": 264, "n_embd": 128, "n_head": 4, "n_layer": 4, "block_size": 128}
BATCH, SPECIALISTS = 16, 3


def run_forge(out: Path, size: str, seed: int, controls: str) -> Path:
    """A finished run of this size and seed, made or gone on with where it is not there."""
    folder = out / f"{size}-{controls}-{seed}"
    given = [f"resume={folder}"]
    if not (folder / "run.json").exists():
        given = [f"size={size}", f"seed={seed}", f"controls={controls}", f"hydra.run.dir={folder}"]
    elif json.loads((folder / "run.json").read_text())["status"] in ("finished", "failed"):
        return folder
    subprocess.run([sys.executable, "-m", "esper.forge", *given], check=False)
    return folder


def measure_specialists(steps: int = 30) -> list[dict[str, Any]]:
    """Seconds in which three specialists of size small train so many steps each, by way.

    A process of its own counts from when it has loaded.
    """
    count = torch.get_num_threads()
    started = time.perf_counter()
    for number in range(SPECIALISTS):
        _train(number, steps, count)
    rows = [{"way": f"one after another, {count} threads", "seconds": time.perf_counter() - started}]
    with multiprocessing.get_context("spawn").Pool(SPECIALISTS) as pool:
        pool.starmap(_train, [(number, 1, 1) for number in range(SPECIALISTS)])
        started = time.perf_counter()
        pool.starmap(_train, [(number, steps, 1) for number in range(SPECIALISTS)], chunksize=1)
        rows.append({"way": "a process each, one thread", "seconds": time.perf_counter() - started})
    return [row | {"ratio": rows[0]["seconds"] / row["seconds"]} for row in rows]


def _train(number: int, steps: int, threads: int) -> None:
    torch.set_num_threads(threads)
    generator = named_generator(number, "specialist")
    model = Decoder(**SMALL, generator=generator)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    tokens = torch.randint(256, (BATCH, SMALL["block_size"] + 1), generator=generator)
    for _ in range(steps):
        optimizer.zero_grad()
        next_token_loss(model, tokens[:, :-1], tokens[:, 1:]).backward()
        optimizer.step()


def measure_loading(folder: Path, repeats: int = 9) -> list[dict[str, Any]]:
    """Milliseconds to load each phase's model, canary included; the median."""
    rows = []
    for path in sorted(folder.glob("[1-8]-*/model.safetensors")):
        taken = [_timed(lambda path=path: load_language_model(path)) for _ in range(repeats)]
        rows.append({"phase": path.parent.name, "ms": 1e3 * statistics.median(taken), "bytes": path.stat().st_size})
    return rows


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure_speed(folder: Path) -> dict[str, Any]:
    """All speeds, by name."""
    return {
        "specialists": measure_specialists(),
        "generation": [measure_generation(windows) for windows in (1, 16)],
        "packed": packed_speed(),
        "loading": measure_loading(folder),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="small")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--controls", choices=("gates", "all"), default="gates")
    parser.add_argument("--out", type=Path, default=Path("outputs/forge"))
    parser.add_argument("--no-speed", action="store_true", help="keep the speeds that were measured before")
    options = parser.parse_args(arguments)
    folders = [run_forge(options.out, options.size, seed, options.controls) for seed in range(options.seeds)]
    speeds = options.out / "speed.json"
    if not options.no_speed:
        speeds.write_text(json.dumps(measure_speed(folders[0]), indent=1))
    write_page(folders, options.controls, json.loads(speeds.read_text()) if speeds.exists() else {})
    say("docs/forge.md")


if __name__ == "__main__":
    main()

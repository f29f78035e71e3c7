"""What every phase's model is measured by, alike: bits per byte, accuracy, bytes, latency."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from esper.forge.bundles import load_language_model
from esper.forge.evaluation import evaluate_corpus
from esper.forge.phase import PhaseContext

Measured = Mapping[str, float | None]
MODEL = "model"


@dataclass(frozen=True, slots=True)
class Aspect:
    """A column of the continuity table. tolerance: by what share it may get worse from one phase to the next."""

    name: str
    title: str
    unit: str
    is_better_high: bool
    tolerance: float


ASPECTS = (
    Aspect("bits_per_byte", "bits a byte", "bits", False, 0.02),
    Aspect("top1", "next token right", "%", True, 0.02),
    Aspect("bytes", "on disk", "bytes", False, 0.05),
    Aspect("latency_ms", "one window", "ms", False, 0.5),
)


def measure_bundle(folder: Path, context: PhaseContext) -> dict[str, float | None]:
    """Of the model that a phase passes on, read back from disk; on the test split, bits per byte by domain, too."""
    path = folder / MODEL
    model = load_language_model(path)
    length = context.model.block_size
    scores = evaluate_corpus(model, context.corpus, "test", length)
    found: dict[str, float | None] = {
        f"bits_per_byte/{domain}": score.bits_per_byte for domain, score in scores.items()
    }
    found["bits_per_byte"] = sum(score.bits_per_byte for score in scores.values()) / len(scores)
    found["top1"] = 100.0 * sum(score.top1 for score in scores.values()) / len(scores)
    found["bytes"] = float(path.with_suffix(".safetensors").stat().st_size)
    found["latency_ms"] = _latency_ms(model, length)
    return found


@torch.inference_mode()
def _latency_ms(model: torch.nn.Module, length: int, repeats: int = 9) -> float:
    """Median time of one window [1, T] through the model."""
    tokens = torch.zeros(1, length, dtype=torch.int64)
    model(tokens)
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        model(tokens)
        taken.append(1e3 * (time.perf_counter() - started))
    return median(taken)


def worsened(aspect: Aspect, before: float | None, after: float | None) -> bool:
    """Whether a figure got worse by more than is tolerated."""
    if before is None or after is None or before == 0:
        return False
    change = (after - before) / abs(before)
    return (change if not aspect.is_better_high else -change) > aspect.tolerance


def marks(rows: Sequence[Measured]) -> list[dict[str, bool]]:
    """For each row, which aspects got worse beyond their tolerance since the row before."""
    pairs = zip([None, *rows[:-1]], rows, strict=True)
    return [
        {a.name: before is not None and worsened(a, before.get(a.name), row.get(a.name)) for a in ASPECTS}
        for before, row in pairs
    ]

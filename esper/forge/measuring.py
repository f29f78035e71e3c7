"""The figures of the continuity table, measured on a bundle that was read back from disk."""

import time
from pathlib import Path
from statistics import median

import torch

from esper.checkpoint.bundle import bundle_paths
from esper.forge.bundles import load_language_model
from esper.forge.continuity import LESSON
from esper.forge.evaluation import evaluate_corpus, mean_bits_per_byte
from esper.forge.phase import MODEL, PhaseContext


def measure_bundle(folder: Path, context: PhaseContext) -> dict[str, float | None]:
    """Of the model that a phase passes on, read back from disk.

    On the test split, bits per byte by domain, too; and the share of right answers in each lesson that it was taught.
    """
    model = load_language_model(folder)
    length = context.model.block_size
    scores = evaluate_corpus(model, context.corpus, "test", length)
    found: dict[str, float | None] = {
        f"bits_per_byte/{domain}": score.bits_per_byte for domain, score in scores.items()
    }
    found["bits_per_byte"] = mean_bits_per_byte(scores)
    found["top1"] = 100.0 * sum(score.top1 for score in scores.values()) / len(scores)
    found["bytes"] = float(bundle_paths(folder / MODEL)[0].stat().st_size)
    for lesson in model.card.lessons:
        found[LESSON + lesson.name] = 100.0 * lesson.accuracy(model.host, model.tokenizer)
    found["latency_ms"] = latency_ms(model, length)
    return found


@torch.inference_mode()
def latency_ms(model: torch.nn.Module, length: int, repeats: int = 9) -> float:
    """Median time of one window [1, T] through the model."""
    tokens = torch.zeros(1, length, dtype=torch.int64)
    model(tokens)
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        model(tokens)
        taken.append(1e3 * (time.perf_counter() - started))
    return median(taken)

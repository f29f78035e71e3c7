"""Evaluation of a population's members, chunk by chunk: as they are, and without some of their seeds."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from esper.engine.backends.base import FUSED, Engine
from esper.engine.fusion.tracing import Captured
from esper.engine.scores import Scores, Totals

# Targets of one evaluation chunk: of each member, and of all together where they run as one program on a CPU. There
# fresh memory for larger activations costs more than computing them.
EVALUATION_TARGETS = 512
CACHED_TARGETS = 4096

Seed = tuple[int, str]  # (member, slot)


def chunk_targets(kind: str, device: torch.device, members: int) -> int:
    """How many targets of each member are evaluated at once."""
    if kind == FUSED and device.type == "cpu":
        return min(EVALUATION_TARGETS, CACHED_TARGETS // members)
    return EVALUATION_TARGETS


def evaluate_members(
    engine: Engine,
    members: int,
    x: Tensor,
    y: Tensor,
    without: Sequence[Seed],
    source: Tensor | None,
    size: int,
    example: Tensor,
) -> tuple[Scores, dict[Seed, tuple[float, float]], float]:
    """Scores of every member, (loss, score in percent) without each seed, and the seconds that the latter took.

    Args: engine: prepared; members: M; x, y [J, N, ...]; source [M]: which of the J sets a member sees; size: examples
    of a chunk; example: a tensor on the members' device, of their dtype.
    """
    device = example.device
    slots: dict[str, list[int]] = {}
    for member, slot in sorted(without):
        slots.setdefault(slot, []).append(member)
    totals = Totals(members, y, example.dtype, source)
    ablated = {
        slot: Totals(len(chosen), y, example.dtype, None if source is None else source[chosen])
        for slot, chosen in slots.items()
    }
    seconds = 0.0
    for x_plain, yb in zip(x.split(size, 1), y.split(size, 1), strict=True):
        xb = engine.to_layout(x_plain.to(device, non_blocking=True))
        if source is not None:
            xb, yb = xb[source], yb[source]
        captured: Captured = {}
        totals.add(*engine.losses(engine.logits(xb, captured), yb), yb)
        started = _now_s(device)
        for slot, chosen in slots.items():
            targets = yb if len(yb) == 1 else yb[chosen]
            ablated[slot].add(*engine.losses(engine.logits_without(slot, chosen, captured), targets), targets)
        seconds += _now_s(device) - started
    results: dict[Seed, tuple[float, float]] = {}
    for slot, chosen in slots.items():
        left = ablated[slot].scores()
        for member, *figures in zip(chosen, left.loss.tolist(), left.score.tolist(), strict=True):
            results[member, slot] = (figures[0], figures[1])
    return totals.scores(), results, seconds


def _now_s(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()

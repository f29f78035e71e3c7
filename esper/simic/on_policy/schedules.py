"""How a learning rate or a coefficient moves over the updates of a run."""

import math
from collections.abc import Callable

from esper.checks import did_you_mean
from esper.errors import LearnerError

Schedule = Callable[[int], float]


def schedule(kind: str, start: float, final: float, updates: int, warmup_updates: int = 0) -> Schedule:
    """update, counted from 0, -> value; `final` from update `updates` on.

    Args:
        kind: constant (`start` throughout), linear, or warmup_cosine: up to `start` in `warmup_updates` even steps, of
            which the first already lets something be learned, then along half a cosine to `final`.
        updates: of the run, or of the part of it in which the value moves.
        warmup_updates: for warmup_cosine alone.

    Raises:
        LearnerError: the kind is unknown, or the warm-up leaves no updates.
    Source: Loshchilov and Hutter 2017, "SGDR: stochastic gradient descent with warm restarts" (the cosine).
    """
    if kind not in SCHEDULES:
        hint = did_you_mean(kind, SCHEDULES)
        raise LearnerError(f"schedule {kind!r} is not known; expected one of {', '.join(SCHEDULES)}{hint}")
    if updates < 1 or not 0 <= warmup_updates < updates:
        raise LearnerError(
            f"warmup_updates={warmup_updates} of updates={updates}: expected at least one update, and a warm-up "
            "from 0 to below their number."
        )
    shape, warmup = SCHEDULES[kind], warmup_updates if kind == "warmup_cosine" else 0

    def value(update: int) -> float:
        if update < warmup:
            return start * (update + 1) / (warmup + 1)
        progress = min(1.0, (update - warmup) / (updates - warmup))
        share = shape(progress)
        return start * (1.0 - share) + final * share

    return value


def _constant(progress: float) -> float:
    return 0.0


def _linear(progress: float) -> float:
    return progress


def _cosine(progress: float) -> float:
    return 0.5 * (1.0 - math.cos(math.pi * progress))


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": _constant,
    "linear": _linear,
    "warmup_cosine": _cosine,
}
"""Each kind's share of the way from start to final at a progress in [0, 1]."""

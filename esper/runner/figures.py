"""What a sweep shows of a finished run."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from esper.leyline import recorded_kind
from esper.leyline.controls import FINAL, TWIN, difference_name

UNITS = {"test_accuracy": "%", "test_r2": "%", "gain": "points", "final_gain": "points"}
GAINS = {TWIN: "gain", FINAL: "final_gain"}  # what grown members are ahead of a control
FIGURES = ("test_accuracy", "test_r2", "test_rmse", "test_bits_per_byte", "parameters")


def figures(record: Mapping[str, Any]) -> dict[str, float] | None:
    """What a sweep shows of a finished run's run.json: means over grown members, and what growing was worth."""
    summary = record.get("summary")
    if not summary or record.get("status") != "finished":
        return None
    grown = summary["grown"]
    found = {name: mean(grown[name]) for name in FIGURES if name in grown}
    for control, gain in GAINS.items():
        difference = summary.get(difference_name(control)) or {}
        found[gain] = (difference.get(f"test_{recorded_kind(grown).name}") or {}).get("mean")
    return {name: value for name, value in found.items() if value is not None}


def mean(values: Iterable[Any]) -> float | None:
    """Of those that were measured; None where none was."""
    known = [value for value in values if isinstance(value, int | float) and math.isfinite(value)]
    return sum(known) / len(known) if known else None

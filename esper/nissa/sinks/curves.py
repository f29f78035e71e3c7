"""The curves of a dashboard: of a record's many members and seeds, one number a name (see metric_names.CURVES)."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from esper.files import read_json
from esper.files.records import RUN_FILE
from esper.leyline.controls import CONTROLS, difference_name
from esper.nissa.metric_names import CURVES, OUTCOMES
from esper.nissa.record_view import split


def epoch_curves(record: dict[str, Any]) -> dict[str, float]:
    """An epoch's numbers by their curves' names; what was not measured is not there."""
    grown, twins = split(record)
    by_member = {row["member"]: row for row in grown}
    pairs = [(by_member[row["twin_of"]], row) for row in twins if row["twin_of"] in by_member]
    slots = [slot for row in grown for slot in row["slots"].values()]
    seeds = [slot for slot in slots if slot["seed"]]
    gains = [
        {name: _difference(mine.get(name), other.get(name)) for name in CURVES["difference"]} for mine, other in pairs
    ]
    curves = {f"time/{name}": record[name] for name in CURVES["time"]}
    for group, rows in (("grown", grown), ("twin", twins), ("difference", gains), ("seeds", seeds)):
        curves |= {f"{group}/{name}": _mean(row.get(name) for row in rows) for name in CURVES[group]}
        spread = f"{group}_spread"
        curves |= {f"{spread}/{name}": _spread(row.get(name) for row in rows) for name in CURVES.get(spread, ())}
    for stage in CURVES["stages"]:
        curves[f"stages/{stage}"] = sum(slot["stage"] == stage for slot in slots)
    return _known(curves)


def update_curves(record: dict[str, Any]) -> dict[str, float]:
    """An update's numbers by their curves' names; a name with a group of its own ("bitnet/loss") is kept."""
    own = {name: value for name, value in record.items() if "/" in name}
    return _known({f"learning/{name}": record.get(name) for name in CURVES["learning"]} | own)


def outcome(run_dir: Path) -> dict[str, float]:
    """What the run in this folder came to, from the summary in run.json; nothing where it has not finished."""
    summary = read_json(run_dir / RUN_FILE)["summary"]
    if not summary:
        return {}
    numbers: dict[str, float | None] = {f"seeds/{name}": summary["seeds"].get(name) for name in OUTCOMES["seeds"]}
    for group in ("grown", *CONTROLS):
        figures = summary.get(group) or {}
        numbers |= {f"{group}/{name}": _mean(figures.get(name, ())) for name in OUTCOMES[group]}
    for group in map(difference_name, CONTROLS):
        differences = summary.get(group) or {}
        numbers |= {f"{group}/{name}": differences.get(name, {}).get("mean") for name in OUTCOMES[group]}
    return _known(numbers)


def _mean(values: Iterable[float | None]) -> float | None:
    measured = [value for value in values if value is not None]
    return fmean(measured) if measured else None


def _spread(values: Iterable[float | None]) -> float | None:
    measured = [value for value in values if value is not None]
    return stdev(measured) if len(measured) > 1 else None


def _difference(mine: float | None, other: float | None) -> float | None:
    return None if mine is None or other is None else mine - other


def _known(numbers: Mapping[str, float | None]) -> dict[str, float]:
    return {name: float(value) for name, value in numbers.items() if value is not None}

"""Grown members beside their controls, as the end of a run and its report show them: scores, sizes, training FLOPs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from esper.leyline import ScoreKind, recorded_kind
from esper.leyline.controls import CONTROLS, FINAL, FINAL_EPOCHS, TITLES, difference_name
from esper.nissa.formatting import compact
from esper.nissa.statistics import FEWEST, mean_interval, paired_difference

GROWN = "grown"
_MEANINGS = {
    FINAL: "final: what each has grown into, trained from scratch for the same FLOPs",
    FINAL_EPOCHS: "final, epochs: the same networks, for as many epochs",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One of the table. group: whose it is, "grown" or a control; is_difference: grown members minus this control."""

    group: str
    label: str
    cells: list[str]
    is_difference: bool = False


@dataclass(frozen=True, slots=True)
class _Score:
    key: str
    title: str
    decimals: int = 1
    unit: str = ""
    within: tuple[float, float] = (0.0, math.inf)

    def text(self, values: Sequence[float | None]) -> str:
        """Their mean and interval, as the table has them."""
        return mean_interval(values, within=self.within).text(decimals=self.decimals, unit=self.unit)

    def difference(self, mine: Sequence[float | None], other: Sequence[float | None]) -> str:
        """Of pairs."""
        if len(mine) != len(other):
            return "-"
        return paired_difference(mine, other).text(decimals=self.decimals, signed=True)


def side_by_side(summary: Mapping[str, Any]) -> tuple[list[str], list[Row]]:
    """Titles of columns, and a row for grown members and two for each control: its own, and the difference to it.

    Args: summary: as in run.json: a figure a member, in percent where it is a score, by "grown" and each control.
    """
    grown = summary["grown"]
    scores = [score for score in _scores(recorded_kind(grown)) if score.key in grown or score.unit]
    rows = [Row(GROWN, GROWN, _cells(grown, scores))]
    for control in CONTROLS:
        figures = summary.get(control)
        if not figures:
            continue
        rows.append(Row(control, TITLES[control], _cells(figures, scores)))
        gains = [score.difference(grown.get(score.key, ()), figures.get(score.key, ())) for score in scores]
        ratios = [_ratio(grown.get(name, ()), figures.get(name, ())) for name in ("parameters", "training_flops")]
        rows.append(Row(control, "difference", [*gains, *ratios], is_difference=True))
    return ["", *(score.title for score in scores), "parameters", "train FLOPs"], rows


def notes(summary: Mapping[str, Any]) -> list[str]:
    """What is to be known of the table, a sentence a line."""
    members = len(summary["grown"].get("parameters") or [])
    if members < FEWEST:
        found = [f"Below {FEWEST} members there is no interval; for one: engine.members=8"]
    else:
        is_compared = any(summary.get(difference_name(control)) for control in CONTROLS)
        difference = "; differences in points, pair by pair" if is_compared else ""
        found = [f"Means over {members} members, 95% t-intervals{difference}."]
    found += [f"{meaning}." for control, meaning in _MEANINGS.items() if summary.get(control)]
    if alone := summary.get("never_grew"):
        found.append(f"{alone} of {members} never grew: each is its own final network.")
    return found


def _scores(kind: ScoreKind) -> tuple[_Score, ...]:
    return (
        _Score(f"test_{kind.name}", f"test {kind.title}", unit="%", within=kind.within),
        _Score("test_rmse", "test RMSE", decimals=3),
        _Score("test_bits_per_byte", "test bits/byte", decimals=3),
        _Score(f"val_{kind.name}", f"validation {kind.title}", unit="%", within=kind.within),
    )


def _cells(figures: Mapping[str, Any], scores: Sequence[_Score]) -> list[str]:
    sizes = [mean_interval(figures.get(name, ())).mean for name in ("parameters", "training_flops")]
    parameters, flops = sizes
    return [
        *(score.text(figures.get(score.key, ())) for score in scores),
        "-" if parameters is None else f"{parameters:,.0f}",
        "-" if flops is None else compact(flops),
    ]


def _ratio(grown: Sequence[float | None], other: Sequence[float | None]) -> str:
    mine, theirs = mean_interval(grown).mean, mean_interval(other).mean
    return f"x {mine / theirs:.2f}" if mine and theirs else "-"

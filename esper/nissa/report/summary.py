"""What a run prints when it has ended: grown against static twins, what became of the seeds, where the report is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from esper.leyline import ScoreKind, SeedStage, recorded_kind
from esper.nissa.palette import STAGE_LOOKS
from esper.nissa.report.history import read_run
from esper.nissa.report.outcomes import OUTCOMES, commonest, seed_groups
from esper.nissa.report.run_facts import why_nothing_was_planted
from esper.nissa.report.timeline import SeedStory, seed_stories
from esper.nissa.statistics import FEWEST, mean_interval, paired_difference
from esper.printing.tables import Console, Text

MOST_GROUPS = 16


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


def _columns(kind: ScoreKind) -> tuple[_Score, ...]:
    return (
        _Score(f"test_{kind.name}", f"test {kind.title}", unit="%", within=kind.within),
        _Score("test_rmse", "test RMSE", decimals=3),
        _Score("test_bits_per_byte", "test bits/byte", decimals=3),
        _Score(f"val_{kind.name}", f"validation {kind.title}", unit="%", within=kind.within),
    )


_STYLES = {
    "fossilised": STAGE_LOOKS[SeedStage.FOSSILIZED].colour,
    "growing": STAGE_LOOKS[SeedStage.TRAINING].colour,
    "culled": STAGE_LOOKS[SeedStage.CULLED].colour,
    "rolled back": "dim",
}


def print_summary(
    summary: dict[str, Any],
    run_dir: Path | str,
    report: Path | str | None = None,
    console: Console | None = None,
) -> None:
    """Print the end of a run.

    Args:
        summary: as written to run.json: scores (percent) and parameters, a list over members each, of "grown" and,
            where there are any, of "twin".
        run_dir: its files tell what was planted, culled and fossilised, and why.
        report: path of the report, when one was written.
        console: where to; standard output when None.
    """
    console = console or Console()
    history = read_run(run_dir)
    stories = seed_stories(history.events)
    console.print()
    console.print(_scores(summary))
    console.print(Text(_footnote(summary), style="dim"))
    if diverged := _diverged(summary):
        console.print(Text(diverged, style="yellow"))
    console.print()
    if stories:
        _print_seeds(console, stories, history.slots)
    else:
        console.print(Text(": ".join(filter(None, ("no seed was planted", why_nothing_was_planted(history))))))
    console.print()
    # As text, unwrapped: a path with a bracket is no markup, and a broken one cannot be clicked.
    console.print(Text(f"run     {run_dir}"), soft_wrap=True)
    if report is not None:
        console.print(Text(f"report  {report}"), soft_wrap=True)


def _scores(summary: dict[str, Any]) -> Table:
    grown, twin = summary["grown"], summary.get("twin")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    columns = _columns(recorded_kind(grown))
    shown = [score for score in columns if score.key in grown or score.unit]
    for name in ("", *(score.title for score in shown), "parameters"):
        table.add_column(name, no_wrap=True)
    for label, group, style in (("grown", grown, "bold"), ("static twin", twin, "")):
        if group:
            values = [score.text(group.get(score.key, ())) for score in shown]
            table.add_row(label, *values, _sizes(group.get("parameters", [])), style=style)
    if twin:
        gains = [_gain(grown, twin, score) for score in shown]
        table.add_row("difference", *gains, _growth(grown.get("parameters", []), twin.get("parameters", [])))
    return table


def _gain(grown: dict[str, Any], twin: dict[str, Any], score: _Score) -> str:
    mine, other = grown.get(score.key, []), twin.get(score.key, [])
    return paired_difference(mine, other).text(decimals=score.decimals, signed=True) if len(mine) == len(other) else "-"


def _sizes(parameters: list[int]) -> str:
    if not parameters:
        return "-"
    mean, least, most = sum(parameters) / len(parameters), min(parameters), max(parameters)
    return f"{mean:,.0f}" + (f" ({least:,} to {most:,})" if least != most else "")


def _growth(grown: list[int], twin: list[int]) -> str:
    return f"x {sum(grown) / len(grown) * len(twin) / sum(twin):.2f}" if grown and twin and sum(twin) else "-"


def _footnote(summary: dict[str, Any]) -> str:
    members = len(summary["grown"].get("parameters") or [])
    if members < FEWEST:
        return f"Below {FEWEST} members there is no interval; for one: engine.members=8"
    difference = "; differences in points, pair by pair" if summary.get("twin") else ""
    return f"Means over {members} members, 95% t-intervals{difference}."


def _diverged(summary: dict[str, Any]) -> str:
    """How many of how many were taken out of training, and what may mend it; nothing where none was."""
    retired = summary.get("retired") or {}
    names = {"grown": "grown members", "twin": "twins"}
    parts = [
        f"{retired[group]} of {len(summary[group]['parameters'])} {name}"
        for group, name in names.items()
        if retired.get(group)
    ]
    if not parts:
        return ""
    return f"{' and '.join(parts)} diverged and were retired; a smaller optimizer.learning_rate may keep them"


def _print_seeds(console: Console, stories: list[SeedStory], slots: list[str]) -> None:
    present = [outcome for outcome in OUTCOMES if any(story.outcome == outcome for story in stories)]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("slot", "blueprint"):
        table.add_column(name, no_wrap=True)
    table.add_column("planted", justify="right", no_wrap=True)
    for outcome in present:
        table.add_column(outcome, justify="right", no_wrap=True, style=_STYLES[outcome])
    groups = seed_groups(stories, slots)
    for group in groups[:MOST_GROUPS]:
        counts = [group.count(outcome) for outcome in present]
        table.add_row(group.slot, group.blueprint, str(len(group.stories)), *(str(n) if n else "" for n in counts))
    if len(groups) > MOST_GROUPS:
        table.add_row("…", f"{len(groups) - MOST_GROUPS} more")
    totals = [sum(story.outcome == outcome for story in stories) for outcome in present]
    table.add_row("all", "", str(len(stories)), *map(str, totals), style="bold")
    console.print(table)
    why = {"planted": [story.why_planted for story in stories]}
    why |= {outcome: [story.why_ended for story in stories if story.outcome == outcome] for outcome in present}
    for what, reasons in why.items():
        for reason in commonest(reasons, most=3):
            console.print(Text.assemble((f"{what}: ", _STYLES.get(what, "")), reason))

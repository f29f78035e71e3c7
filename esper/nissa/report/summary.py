"""What a run prints when it has ended: grown members beside their controls, and what became of the seeds."""

from pathlib import Path
from typing import Any

from rich.table import Table

from esper.leyline import SeedStage
from esper.nissa.palette import STAGE_LOOKS
from esper.nissa.report.history import read_run
from esper.nissa.report.outcomes import OUTCOMES, commonest, seed_groups
from esper.nissa.report.run_facts import why_nothing_was_planted
from esper.nissa.report.side_by_side import GROWN, notes, side_by_side
from esper.nissa.report.timeline import SeedStory, seed_stories
from esper.printing.tables import Console, Text

MOST_GROUPS = 16


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
        summary: as written to run.json, see `side_by_side`.
        run_dir: its files tell what was planted, culled and fossilised, and why.
        report: path of the report, when one was written.
        console: where to; standard output when None.
    """
    console = console or Console()
    history = read_run(run_dir)
    stories = seed_stories(history.events)
    console.print()
    console.print(_scores(summary))
    for note in notes(summary):
        console.print(Text(note, style="dim"))
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
    titles, rows = side_by_side(summary)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for title in titles:
        table.add_column(title, no_wrap=True)
    for row in rows:
        table.add_row(row.label, *row.cells, style="bold" if row.group == GROWN else "")
    return table


def _diverged(summary: dict[str, Any]) -> str:
    """How many of how many were taken out of training, and what may mend it; nothing where none was."""
    retired = summary.get("retired") or {}
    names = {"grown": "grown members", "twin": "twins", "final": "final networks", "final_epochs": "of them, by epochs"}
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

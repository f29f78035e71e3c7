"""Tables of an analysis in a terminal: words are wrapped and columns left out, and no figure is ever cut."""

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Group
from rich.table import Table

from esper.printing.tables import Console, Text
from esper.study.analyze.analysis import SuiteResult
from esper.study.analyze.tables import (
    BETTER,
    IQM,
    TITLES,
    Columns,
    columns,
    compared,
    differences,
    errors,
    own_mean,
    spelled_seeds,
)

# What a narrow terminal goes without, one after another.
_DROPPED = ("val_accuracy", "val_r2", "wall_s", "culled", "planted", "fossilized", "training_flops", "parameters", IQM)
_WORDS = ("version", "excludes", *TITLES)  # headings of columns that hold no numbers begin so
_NARROWEST = 14  # cells of a version's title, before a column is left out for it
_GAP = 2


def print_result(result: SuiteResult, metrics: Sequence[str], console: Console) -> None:
    """Tables that fit the terminal. metrics: those to show, none: the usual ones."""
    console.print(Text(f"suite {result.suite}", style="bold"))
    shown = _fitting(result, metrics, console.width)
    for metric in compared(result, metrics):
        gaps = differences(result, metric)
        shown += [gaps if _least(gaps) <= console.width else differences(result, metric, (BETTER,))] if gaps else []
    for table in shown:
        console.print(_table(table, console.width), crop=False)
        console.print()
    for row in result.policies:
        for run in row.runs:
            line = "  ".join(filter(None, (run.label, own_mean(row, run, result), ", ".join(run.checkpoints))))
            console.print(Text(line, style="dim"), soft_wrap=True)
            for error, seeds in errors(run).items():
                failed = f"{run.label}  failed: {error} ({spelled_seeds(seeds)})"
                console.print(Text(failed, style="red"), soft_wrap=True)
    console.print()


def _fitting(result: SuiteResult, metrics: Sequence[str], width: int) -> list[Columns]:
    """One table with the usual metrics, as many as there is room for; or all that were asked for, in several."""
    if not metrics:
        tables = [columns(result, (), _DROPPED[:count]) for count in range(len(_DROPPED) + 1)]
        return [next((table for table in tables if _least(table) <= width), tables[-1])]
    dropped = () if all(_least(columns(result, [metric])) <= width for metric in metrics) else (IQM,)
    parts: list[list[str]] = [[]]
    for metric in metrics:
        if parts[-1] and _least(columns(result, [*parts[-1], metric], dropped)) > width:
            parts.append([])
        parts[-1].append(metric)
    return [columns(result, part, dropped) for part in parts]


def _table(shown: Columns, width: int) -> Table:
    """No wider than `width` but where its figures are: those are left to the terminal to wrap."""
    least = _least(shown)
    table = Table(box=None, padding=(0, _GAP, 0, 0), header_style="dim", width=least if least > width else None)
    for heading, cells in shown:
        is_title = heading.startswith(TITLES)
        table.add_column(
            Group(*map(Text, _lines(heading))),
            justify="left" if heading.startswith(_WORDS) else "right",
            overflow="fold",
            width=None if is_title else _widest(heading, cells),
            min_width=_least_of(heading, cells) if is_title else None,
        )
    for row in zip(*(cells for _, cells in shown), strict=True):
        table.add_row(*row)
    return table


def _least(shown: Columns) -> int:
    """Cells that a table needs."""
    return sum(_least_of(heading, cells) + _GAP for heading, cells in shown)


def _least_of(heading: str, cells: Sequence[str]) -> int:
    widest = _widest(heading, cells)
    return min(widest, _NARROWEST) if heading.startswith(TITLES) else widest


def _widest(heading: str, cells: Sequence[str]) -> int:
    return max(map(cell_len, (*_lines(heading), *cells)))


def _lines(heading: str) -> list[str]:
    """A heading of figures stands on several lines, so that its column is as narrow as they are."""
    return (heading if heading.startswith(TITLES) else heading.replace(", ", ",\n")).split("\n")

"""`esper compare`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from esper.cli.runs import add_root

if TYPE_CHECKING:
    from rich.table import Table

    from esper.study.compare.comparison import Comparison

MOST_KEYS = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which runs, and where the page goes."""
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a run's folder, a part of its path, or a folder of runs, such as a sweep's; runs that differ in nothing "
        "but the seed count as one configuration, and the first one is what others are measured by",
    )
    parser.add_argument("--page", type=Path, metavar="FILE", help="where the page goes (default: beside the runs)")
    add_root(parser)


def run(options: argparse.Namespace) -> None:
    """Print what differs and the statistics, write the page, and say where."""
    from esper.study.compare.groups import read_groups

    given = read_groups(options.runs, options.root)
    from esper.printing.tables import UNBOUNDED, Console, Text
    from esper.study.compare.comparison import Comparison
    from esper.study.compare.page import write_comparison

    comparison = Comparison(given)
    console = Console(width_of_file=UNBOUNDED)
    for line in given.left_out:
        console.print(Text(f"left out: {line}", "dim"), soft_wrap=True)
    console.print(_differences(comparison))
    console.print()
    console.print(_statistics(comparison))
    caption = f"means over {comparison.unit}, {comparison.interval_note('intervals')}; "
    caption += f"differences are to {comparison.groups[0].label}"
    console.print(Text(caption, "dim"), soft_wrap=True)
    console.print()
    console.print(Text(f"page  {write_comparison(comparison, options.page)}"), soft_wrap=True)


def _differences(comparison: "Comparison") -> "Table":
    from rich.table import Table

    from esper.printing.tables import Text
    from esper.study.compare.page import shown_differences

    found, own = shown_differences(comparison)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("what differs", *(group.label for group in comparison.groups)):
        table.add_column(Text(title), overflow="fold")
    for key, values in list(found.items())[:MOST_KEYS]:
        table.add_row(key, *(Text(value or "-") for value in values))
    more = max(len(found) - MOST_KEYS, 0) + len(own)
    if more:
        table.add_row(f"... {more} more on the page", style="dim")
    return table


def _statistics(comparison: "Comparison") -> "Table":
    from rich.table import Table

    from esper.printing.tables import Text
    from esper.study.compare.page import measured, told_apart

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", overflow="fold")
    table.add_column("runs", justify="right", no_wrap=True)
    for measure in comparison.measures:
        table.add_column(measure.title, overflow="fold")
    for group in comparison.groups:
        means = [Text(measured(comparison.mean(group, measure), measure)) for measure in comparison.measures]
        table.add_row(Text(group.label), str(len(group.runs)), *means, style="bold")
        for title, figures in comparison.controls(group).items():
            of_control = [
                Text(measured(mean, measure) if mean else "")
                for mean, measure in zip(figures, comparison.measures, strict=True)
            ]
            table.add_row(Text(f"  {title}"), "", *of_control)
        if group is comparison.groups[0]:
            continue
        cells = []
        for measure in comparison.measures:
            difference = comparison.difference(group, measure)
            is_up = (difference.interval.mean or 0) > 0
            style = ("green" if is_up else "red") if difference.excludes_zero and measure.decimals else ""
            cells.append(Text(told_apart(difference, measure), style))
        pairs = comparison.difference(group, comparison.measures[0]).is_paired
        table.add_row(Text(f"  difference, {'paired' if pairs else 'unpaired'}", "dim"), "", *cells)
    return table

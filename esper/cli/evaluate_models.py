"""`esper evaluate` of language models."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from esper.printing import say, say_text

if TYPE_CHECKING:
    from esper.forge.assessing import Assessment

Row = tuple[str, Callable[["Assessment"], str]]


def run(options: argparse.Namespace, bundles: Sequence[Path]) -> None:
    """Measure each bundle, and print all side by side."""
    from esper.forge.assessing import assess, check_asked

    for bundle in bundles:
        check_asked(bundle, options.text, options.family)
    found = [
        assess(bundle, options.text, options.split or "test", options.family, options.problems) for bundle in bundles
    ]
    if options.json:
        _print_json(found)
    else:
        _print_table(found)
    for one in found:
        for note in dict.fromkeys((*one.notes, *(score.why for score in one.lessons if score.why))):
            say(f"{one.model}: {note}", is_error=True)


def _print_json(found: Sequence["Assessment"]) -> None:
    import json
    from dataclasses import asdict

    say_text(json.dumps([asdict(one) | {"canary": "reproduces"} for one in found], indent=1))


def _print_table(found: Sequence["Assessment"]) -> None:
    from rich.table import Table

    from esper.printing.tables import UNBOUNDED, Console, Text

    console = Console(width_of_file=UNBOUNDED)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("")
    for one in found:
        table.add_column(Text(one.model), justify="right", overflow="fold")
    for label, cell in _rows(found):
        table.add_row(Text(label), *(Text(cell(one)) for one in found))
    console.print(table)


def _rows(found: Sequence["Assessment"]) -> list[Row]:
    rows: list[Row] = [
        ("phase", lambda one: one.phase),
        ("format", lambda one: one.format),
        ("canary", lambda one: "reproduces"),
        ("bytes on disk", lambda one: f"{one.bytes:,}"),
        ("parameters", lambda one: f"{one.parameters:,}"),
        ("one window, tokens", lambda one: str(one.length)),
        ("one window, ms", lambda one: f"{one.latency_ms:.2f}"),
        ("text", lambda one: one.text),
    ]
    for domain in dict.fromkeys(domain for one in found for domain in one.domains):
        rows += [
            (f"{domain}: bits a byte", _of_domain(domain, "bits_per_byte", "{:.3f}")),
            (f"{domain}: next token right", _of_domain(domain, "top1", "{:.1f}%")),
        ]
    for label in dict.fromkeys(score.label for one in found for score in one.lessons):
        rows.append((label, _of_lesson(label)))
    return rows


def _of_domain(name: str, figure: str, spelling: str) -> Callable[["Assessment"], str]:
    def cell(one: "Assessment") -> str:
        return spelling.format(getattr(one.domains[name], figure)) if name in one.domains else "-"

    return cell


def _of_lesson(label: str) -> Callable[["Assessment"], str]:
    def cell(one: "Assessment") -> str:
        accuracy = next((score.accuracy for score in one.lessons if score.label == label), None)
        return "-" if accuracy is None else f"{accuracy:.1f}%"

    return cell

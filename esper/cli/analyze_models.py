"""`esper analyze` of language models."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from esper.errors import ConfigError, ExitCode
from esper.printing import say_text

if TYPE_CHECKING:
    from esper.forge.ancestry import Ancestor
    from esper.forge.examining import Examination
    from esper.printing.tables import Console

_FORMATS = ("table", "json")


def run(bundles: Sequence[Path], format: str) -> int:
    """Print each; the exit code. Raises: EsperError where a bundle is not sound."""
    if format not in _FORMATS:
        raise ConfigError(f"--format {format}: language models are told of as {' or '.join(_FORMATS)}")
    from esper.forge.examining import examine
    from esper.printing.tables import UNBOUNDED, Console

    found = [examine(bundle) for bundle in bundles]
    if format == "json":
        import json

        say_text(json.dumps([one.plain() for one in found], indent=1))
        return ExitCode.DONE
    console = Console(width_of_file=UNBOUNDED)
    for place, one in enumerate(found):
        if place:
            console.print()
        _print(one, console)
    return ExitCode.DONE


def _print(one: "Examination", console: "Console") -> None:
    card = one.card
    arguments = ", ".join(f"{name}={value}" for name, value in card.architecture["arguments"].items())
    grown = [f"{entry['blueprint']} behind {entry['slot']}" for entry in card.architecture.get("growth", ())]
    lessons = [f"{lesson.name}: {', '.join(lesson.families)}" for lesson in card.lessons]
    head = {
        "phase": card.phase,
        "format": card.format,
        "network": f"{card.architecture['name']}({arguments})",
        "grown in it": ", ".join(grown),
        "quantiser": ", ".join(f"{name}={value}" for name, value in (card.quantizer or {}).items()),
        "tokenizer": card.tokenizer["name"],
        "seed": str(card.seed),
        "gates passed": _gates(card.gates),
        "lessons": "; ".join(lessons),
        "checksum": "verified",
    }
    _table(console, ("", one.model), [(name, text) for name, text in head.items() if text])
    console.print()
    _table(console, ("parents", "made by", "sha256", ""), map(_parent, one.ancestors) if one.ancestors else [("none",)])
    console.print()
    total = sum(one.anatomy.parts.values())
    parts = [(part, f"{size:,}", f"{size / total:.1%}") for part, size in one.anatomy.parts.items()]
    _table(console, ("part", "bytes", "share"), [*parts, ("file", f"{total:,}", "")])
    console.print()
    tensors = [
        (
            tensor.name,
            "x".join(map(str, tensor.shape)) or "1",
            tensor.kind,
            f"{tensor.bytes:,}",
            f"{tensor.zeros:.1%}",
            "" if tensor.trits is None else " ".join(f"{share:.1%}" for share in tensor.trits),
        )
        for tensor in one.anatomy.tensors
    ]
    _table(console, ("tensor", "shape", "stored as", "bytes", "zeros", "of -1, 0, 1"), tensors)
    if one.phases:
        console.print()
        _print_phases(one, console)


def _print_phases(one: "Examination", console: "Console") -> None:
    from esper.printing.tables import Text

    names = dict.fromkeys(name for phase in one.phases for name in phase.figures)
    rows = [(name, *(_figure(name, phase.figures.get(name)) for phase in one.phases)) for name in names]
    gates = ("gates passed", *(_gates(phase.gates) or "-" for phase in one.phases))
    titles = [phase.phase if phase.status == "finished" else f"{phase.phase} ({phase.status})" for phase in one.phases]
    _table(console, ("what each phase did", *titles), [*rows, gates])
    for phase in one.phases:
        for sentence in (*([f"failed: {phase.error}"] if phase.error else []), *phase.notes):
            console.print(Text(f"{phase.phase}: {sentence}"), soft_wrap=True)


def _parent(ancestor: "Ancestor") -> tuple[str, ...]:
    from esper.sweep.terminal import shown

    indent = "  " * (ancestor.generation - 1)
    state = f"{ancestor.state}, see above" if ancestor.is_known else ancestor.state
    return f"{indent}{ancestor.relation}: {shown(ancestor.path)}", ancestor.phase or "-", ancestor.sha256[:8], state


def _gates(passed: Mapping[str, bool]) -> str:
    failed = [name for name, is_passed in passed.items() if not is_passed]
    if not passed:
        return ""
    return f"{len(passed) - len(failed)} of {len(passed)}" + (f"; not {', '.join(failed)}" if failed else "")


def _figure(name: str, figure: tuple[float | None, float | None] | None) -> str:
    from esper.forge.continuity import aspects_of

    value, change = figure or (None, None)
    known = (name, name.partition("/")[0])  # such as bits_per_byte of a domain
    aspect = next((aspect for aspect in aspects_of([{name: value}]) if aspect.name in known), None)
    spelling = aspect.spelling if aspect else "{:.4g}"
    if value is None:
        return "-"
    signed = "" if change is None else f" ({spelling.replace(':', ':+').removesuffix('%').format(change)})"
    return f"{spelling.format(value)}{signed}"


def _table(console: "Console", titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.table import Table

    from esper.printing.tables import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in titles:
        table.add_column(Text(title), overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)

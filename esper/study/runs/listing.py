"""The table of runs: on a terminal as much of it as fits, in a file or a pipe all of it."""

import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.table import Table as RichTable

from esper.checks import spelled
from esper.errors import FormatError
from esper.files import read_object
from esper.files.records import SWEEP, SWEEP_FILE
from esper.leyline import ACCURACY, SCORE_KINDS, ScoreKind
from esper.nissa.formatting import clock, compact, signed
from esper.printing.tables import Text
from esper.study.runs.folders import is_attempt
from esper.study.runs.index import UNDER_WAY
from esper.study.runs.query import Table
from esper.study.runs.rows import Row

STATUS_STYLES = {
    "running": "cyan",
    "queued": "cyan",
    "finished": "green",
    "interrupted": "yellow",
    "killed": "red",
    "failed": "red",
    "unreadable": "red",
}
GAP = 2
SHORTEST_RUN = 24
SAME = 20  # ranks above this are of columns that say the same of every run
_MOST_REASONS = 3


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the table. The higher its rank, the earlier it is left out where there is no room; 0 stays."""

    title: str
    cell: Callable[[Row], str | Text]
    rank: int = 0
    is_right: bool = False


def runs_table(
    table: Table, rows: Sequence[Row], further: Sequence[str], width: int | None
) -> tuple[RichTable, list[str]]:
    """These rows of a table, with columns of further keys; no wider than `width` cells, where that is given.

    Also returned: what all rows have in common, as far as its column was left out ("task digits").
    """
    possible = [column for column in _columns(rows) if any(column.cell(row) for row in rows)]
    columns = possible + [_further(table, key) for key in further]
    cells = [[column.cell(row) for row in rows] for column in columns]
    if width is not None:
        columns, cells = _fit(columns, cells, width)
    shown = RichTable(box=None, padding=(0, GAP, 0, 0), header_style="dim", pad_edge=False)
    for column in columns:
        shown.add_column(column.title, justify="right" if column.is_right else "left", no_wrap=True)
    for line in zip(*cells, strict=True):
        shown.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in line))
    common = [column for column in possible if column.rank > SAME and column not in columns]
    return shown, [f"{column.title} {column.cell(rows[0])}" for column in common]


def counts(rows: Sequence[Row]) -> str:
    """ "12 finished, 2 running": how many runs are in which state."""
    found = Counter(row["status"] for row in rows)
    return ", ".join(f"{found[status]} {status}" for status in STATUS_STYLES if found[status])


def reasons(rows: Sequence[Row]) -> list[Text]:
    """Why runs went wrong, and how they go on: a line for each, or for all of a sweep; the first few."""
    wrong = [row for row in rows if row["status"] in ("failed", "interrupted", "killed", "unreadable")]
    together: dict[Path, list[Row]] = {}
    for row in wrong:
        folder = Path(row["path"])
        is_job = (folder.parent / SWEEP_FILE).is_file()
        if not (is_job and is_attempt(row["run"])):  # what was put aside needs nothing
            together.setdefault(folder.parent if is_job else folder, []).append(row)
    lines = [_reason(folder, given) for folder, given in together.items()]
    left = len(lines) - _MOST_REASONS
    return lines[:_MOST_REASONS] + ([Text(f"... and {left} more", "dim")] if left > 0 else [])


def _reason(folder: Path, rows: Sequence[Row]) -> Text:
    """Of one run, or of the jobs of one sweep; folder: of the run, or of the sweep."""
    first = next((row for row in rows if row["error"]), rows[0])
    is_sweep = folder != Path(first["path"])
    name, why = first["run"], " ".join((first["error"] or first["status"]).split())
    if len(rows) > 1:
        name, why = str(Path(name).parent), counts(rows) + (f", one of them: {why}" if first["error"] else "")
    line = Text(name, STATUS_STYLES[first["status"]])
    line.append(f": {why}", "default")
    if is_sweep:
        line.append(f"  → {_command(folder, any(row['status'] == 'failed' for row in rows))}", "dim")
    elif first["status"] != "unreadable":
        line.append(f"  → esper resume {first['path']}", "dim")
    return line


def _command(sweep: Path, has_failed: bool) -> str:
    """What goes on with a sweep."""
    try:
        given = read_object(sweep / SWEEP_FILE, SWEEP, {"arguments"})["arguments"]
        arguments = [argument for argument in given if not argument.startswith("rerun=")]
    except (OSError, FormatError):
        return "the sweep's command again" + (", with rerun=failed" if has_failed else "")
    return f"python -m esper.run {shlex.join([*arguments, *(['rerun=failed'] if has_failed else [])])}"


def _columns(rows: Sequence[Row]) -> list[Column]:
    """All there is to show, in order. What is the same for all rows is what can best be spared."""

    def rank(key: str, otherwise: int) -> int:
        return otherwise + (SAME if len(rows) > 1 and len({row[key] for row in rows}) == 1 else 0)

    return [
        Column("run", lambda row: row["run"]),
        Column("status", _status),
        Column("progress", _progress, rank=2 if any(row["status"] in UNDER_WAY for row in rows) else 7, is_right=True),
        Column("task", lambda row: row["task"] or "", rank=rank("task", 8)),
        Column("host", lambda row: row["host"] or "", rank=rank("host", 9)),
        Column("policy", lambda row: row["policy"] or "", rank=rank("policy", 1)),
        Column("seed", lambda row: _spelled(row["seed"]), rank=rank("seed", 4), is_right=True),
        *_scores(rows),
        Column("over twins", lambda row: _gain(row, "gain"), rank=3, is_right=True),
        Column("over final", lambda row: _gain(row, "final_gain"), rank=3, is_right=True),
        Column("bits/byte", lambda row: _fixed(row["test_bits_per_byte"], 3), rank=3, is_right=True),
        Column("parameters", lambda row: "" if row["parameters"] is None else compact(row["parameters"]), 6, True),
        Column("took", lambda row: clock(row["wall_s"]) if row["wall_s"] else "", rank=10, is_right=True),
        Column("age", lambda row: ago(row["started_at"]), rank=5, is_right=True),
        Column("heartbeat", _heartbeat, rank=3, is_right=True),
    ]


def _further(table: Table, key: str) -> Column:
    """A column that was asked for."""
    return Column(key, lambda row: _spelled(table.value(row, key)))


def _fit(columns: list[Column], cells: list[list[Any]], width: int) -> tuple[list[Column], list[list[Any]]]:
    """Leave columns out, and shorten the runs' paths, until the table is no wider."""

    def widths() -> list[int]:
        return [
            max([cell_len(column.title), *(cell_len(str(cell)) for cell in lines)]) + GAP
            for column, lines in zip(columns, cells, strict=True)
        ]

    while sum(widths()) - max(widths()[0] - SHORTEST_RUN - GAP, 0) > width and any(column.rank for column in columns):
        spared = max(range(len(columns)), key=lambda index: columns[index].rank)
        columns, cells = columns[:spared] + columns[spared + 1 :], cells[:spared] + cells[spared + 1 :]
    room = width - sum(widths()[1:]) - GAP
    return columns, [[shortened(run, max(room, SHORTEST_RUN)) for run in cells[0]], *cells[1:]]


def shortened(run: str, width: int) -> str:
    """A path with its middle left out; the end, by which a run is told, stays."""
    if cell_len(run) <= width:
        return run
    end = min(12, width // 2)
    return f"{run[: width - end - 1]}…{run[-end:]}"


def ago(moment: str | None) -> str:
    """How long since: "12 s", "5 min", "3 h", "2 d"."""
    if not moment:
        return ""
    seconds = max((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds(), 0.0)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length or (seconds >= length and unit == "min"):
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _status(row: Row) -> Text:
    return Text(row["status"], STATUS_STYLES.get(row["status"], ""))


def _progress(row: Row) -> str:
    """Epochs, or updates as long as the policy learns."""
    if row["max_updates"] and row["update"] < row["max_updates"]:
        return f"update {row['update']}/{row['max_updates']}"
    return "" if row["max_epochs"] is None else f"{row['epoch']}/{row['max_epochs']}"


def _scores(rows: Sequence[Row]) -> list[Column]:
    """Accuracy, and R-squared where a row has it, alone where no row has the other."""
    found = [kind for kind in SCORE_KINDS if any(row[f"val_{kind.name}"] is not None for row in rows)]
    return [Column(kind.title, partial(_score, kind), is_right=True) for kind in found or [ACCURACY]]


def _score(kind: ScoreKind, row: Row) -> str | Text:
    """On the test split; until that is measured, on validation."""
    tested, validated = row[f"test_{kind.name}"], row[f"val_{kind.name}"]
    if tested is not None:
        return f"{tested:.1f}%"
    return "" if validated is None else Text(f"~{validated:.1f}%", "dim")


def _gain(row: Row, key: str) -> str | Text:
    gain, low, high = row[key], row[f"{key}_low"], row[f"{key}_high"]
    if gain is None:
        return ""
    if low is None or high is None:
        return signed(gain)
    style = "green" if low > 0 else "red" if high < 0 else ""
    return Text(f"{signed(gain)} ±{(high - low) / 2:.1f}", style)


def _heartbeat(row: Row) -> str:
    return f"{ago(row['heartbeat_at'])} ago" if row["status"] in (*UNDER_WAY, "killed") else ""


def _fixed(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:.{decimals}f}"


def _spelled(value: Any) -> str:
    return "" if value is None else spelled(value)

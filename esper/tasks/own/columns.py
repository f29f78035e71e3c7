"""Columns of a file as text: CSV by the standard library, Parquet by pyarrow."""

import csv
import re
from collections.abc import Sequence
from io import BufferedReader, TextIOWrapper
from pathlib import Path

from esper.errors import TaskError, first_line
from esper.files import open_to_read

MISSING = frozenset(("", "na", "n/a", "nan", "null", "none", "?"))
DELIMITERS = ",;\t|"
_PARQUET = (".parquet", ".pq")
_MOST_FIELD_BYTES = 1 << 20


def read_columns(path: str) -> dict[str, Sequence[str]]:
    """Name -> values, a text each, "" where there is none; all columns are equally long.

    Raises: TaskError where the file cannot be read, is no table, or has no row.
    """
    file = Path(path).expanduser()
    try:
        columns = _parquet(file) if file.suffix.lower() in _PARQUET else _csv(file)
    except UnicodeDecodeError as error:
        raise TaskError(f"task.path={path}: cannot be read (it is no UTF-8: {error})") from error
    except OSError as error:
        raise TaskError(f"task.path={path}: cannot be read ({error.strerror or first_line(error)})") from error
    if not columns or not len(next(iter(columns.values()))):
        raise TaskError(f"task.path={path}: holds no row")
    return columns


def _csv(path: Path) -> dict[str, Sequence[str]]:
    before = csv.field_size_limit(_MOST_FIELD_BYTES)
    try:
        return _rows(path)
    finally:
        csv.field_size_limit(before)


def _rows(path: Path) -> dict[str, Sequence[str]]:
    with TextIOWrapper(BufferedReader(open_to_read(path)), newline="", encoding="utf-8-sig") as file:
        head = file.readline()
        delimiter = max(DELIMITERS, key=re.sub('"[^"]*"', "", head).count)
        file.seek(0)
        lines = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            names = [name.strip() for name in next(lines, [])]
            _check_names(names, path)
            rows = []
            for row in lines:
                if not row:  # an empty line
                    continue
                if len(row) != len(names):
                    raise TaskError(
                        f"{path}: line {lines.line_num} has {len(row)} fields, and the first line names {len(names)}"
                    )
                rows.append(row)
        except csv.Error as error:
            raise TaskError(f"{path}: line {lines.line_num}: {error}") from error
    return dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else {}


def _check_names(names: list[str], path: Path) -> None:
    for place, name in enumerate(names):
        if not name or name in names[:place]:
            wrong = f"names {name} twice" if name else f"gives column {place + 1} no name"
            raise TaskError(f"{path}: the first line {wrong}; it is to name all columns")


def _parquet(path: Path) -> dict[str, Sequence[str]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise TaskError(f"{path}: Parquet needs pyarrow ({error}); run: pip install 'esper[data]'") from error
    try:
        table = parquet.read_table(path)
        _check_names(table.column_names, path)
        return {
            name: ["" if value is None else str(value) for value in column.to_pylist()]
            for name, column in zip(table.column_names, table.columns, strict=True)
        }
    except (ArrowException, ValueError, OverflowError) as error:  # of dates beyond Python's, too
        raise TaskError(f"{path}: cannot be read as Parquet ({first_line(error)})") from error

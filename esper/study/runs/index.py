"""The index: every run below a root, fresh on each call, read from an SQLite cache where nothing changed.

The run folders are the truth. The cache beside them, index.sqlite, is filled by whoever lists runs and never by the
runs themselves, so that it can neither hold one up nor lose one; without it, listing is merely slower.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from esper.files import check_own, misfit
from esper.files.records import RUN_FILE
from esper.study.databases import DATABASE_ERRORS
from esper.study.runs.folders import Stamp, is_held, place, walk
from esper.study.runs.rows import COLUMNS, ROW, Row, read_job_row, read_row

INDEX_FILE = "index.sqlite"
VERSION = 1
BUSY_TIMEOUT_S = 5.0
# A run.json that was replaced twice within one tick of the file system's clock looks unchanged. One as young as this
# when it was read is therefore read again next time.
SETTLED_NS = 2 * 10**9
UNDER_WAY = ("queued", "running")
_STAMP = ("mtime_ns", "size", "inode")
_COLUMNS = [*(f"{name} INTEGER" for name in _STAMP), *(f'"{name}" {kind}' for name, (kind, _) in COLUMNS.items())]
_TABLE = f"CREATE TABLE runs ({', '.join(_COLUMNS)})"  # as SQLite keeps it, too
_NEVER = Stamp(0, 0, 0)

Known = dict[str, tuple[Stamp, Row]]


@dataclass(slots=True)
class Index:
    """The runs below a root, in no order, and what is to be said about the cache."""

    rows: list[Row]
    notes: list[str] = field(default_factory=list)


def read_index(root: Path) -> Index:
    """Every run below `root` as it is now, and every job of a sweep that has not become one.

    A run under way whose process is gone has the status "killed".
    Each row has the columns of `COLUMNS`, and `path`: its folder as this process sees it.
    Raises RunError where there is no such folder.
    """
    met = walk(root)
    found = met.runs
    with contextlib.closing(_Cache(root / INDEX_FILE)) as cache:
        known = cache.read()
        fresh: Known = {}
        for run, stamp in found.items():
            if run not in known or known[run][0] != stamp:
                fresh[run] = _read(root, run)
        cache.write(fresh, known.keys() - found.keys())
    rows = [(fresh.get(run) or known[run])[1] for run in found]
    notes = cache.notes + met.unread
    # Jobs that went wrong before they were runs are few, and not in the cache. One that finished is of no run of ours.
    rows += [row for job in met.jobs if (row := read_job_row(root, job)[0])["status"] != "finished"]
    for row in rows:
        row["path"] = place(root, row["run"])
        if row["status"] in UNDER_WAY:
            row |= settled_row(Path(row["path"])) | {"run": row["run"]}
    return Index(rows, notes)


def _read(root: Path, run: str) -> tuple[Stamp, Row]:
    row, stamp = read_row(root, run)
    is_settled = stamp is not None and time.time_ns() - stamp.mtime_ns > SETTLED_NS
    return stamp if stamp and is_settled else _NEVER, row


def settled_row(folder: Path) -> Row:
    """The row of one run, or of a job that has not become one, as it is now, without the cache."""

    def read() -> Row:
        kind = read_row if (folder / RUN_FILE).exists() else read_job_row
        return kind(folder.parent, folder.name)[0]

    row = read()
    if row["status"] in UNDER_WAY and not is_held(folder):
        row = read()  # it may have ended between the two
        if row["status"] in UNDER_WAY:
            row["status"] = "killed"
    return row | {"path": str(folder)}


class _Cache:
    """index.sqlite; every trouble with it costs a note and some time, never a row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        self._database: sqlite3.Connection | None = None
        try:
            self._open()
        except (OSError, *DATABASE_ERRORS, _OtherVersionError, _ForeignError) as error:
            self._mend(error)

    def read(self) -> Known:
        """What was known when the cache was last written."""
        try:
            if self._database is None:
                return {}
            names, known = list(COLUMNS), {}
            for values in self._database.execute(f"SELECT {_quoted((*_STAMP, *names))} FROM runs"):
                row = dict(zip(names, values[3:], strict=True))
                if misfit(list(values[:3]), [int]) is None and misfit(row, ROW) is None:  # else it is read anew
                    known[row["run"]] = (Stamp(*values[:3]), row)
            return known
        except DATABASE_ERRORS as error:
            self._mend(error)
        return {}

    def write(self, fresh: Known, gone: Iterable[str]) -> None:
        """One short transaction; none where nothing changed."""
        lost = [(run,) for run in gone]
        if self._database is None or not (fresh or lost):
            return
        columns = (*_STAMP, *COLUMNS)
        values = [(*stamp, *map(row.__getitem__, COLUMNS)) for stamp, row in fresh.values()]
        marks = ", ".join("?" * len(columns))
        try:
            with self._database:
                self._database.execute("BEGIN IMMEDIATE")
                self._database.executemany(f"INSERT OR REPLACE INTO runs ({_quoted(columns)}) VALUES ({marks})", values)
                self._database.executemany("DELETE FROM runs WHERE run = ?", lost)
        except DATABASE_ERRORS as error:
            self._mend(error)

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _open(self) -> None:
        check_own(self.path)
        self._database = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        with self._database:
            self._database.execute("BEGIN")  # of one moment: another process may be making it
            version = self._database.execute("PRAGMA user_version").fetchone()[0]
            made = [sql for (sql,) in self._database.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")]
        if made and not any(str(sql).startswith(_TABLE[: _TABLE.index(" INTEGER")]) for sql in made):
            raise _ForeignError("it is another program's database")
        if version == VERSION and made == [_TABLE]:
            return
        if made or version:
            raise _OtherVersionError(f"it is of version {version}, or its tables are others")
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")  # of all that find no table, one makes it
            if not self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                self._database.execute(_TABLE)
            self._database.execute(f"PRAGMA user_version = {VERSION}")
        with contextlib.suppress(sqlite3.OperationalError):  # another does it
            self._database.execute("PRAGMA journal_mode = WAL")  # those who read do not wait for the one that writes

    def _mend(self, reason: Exception) -> None:
        """Start over with an empty cache where this one is damaged; do without where the place is at fault."""
        self.close()
        # A folder that cannot be written to, a file system without locks, a full disk: no other file would fare better.
        if isinstance(reason, _ForeignError):
            return self._give_up(reason)
        code = getattr(reason, "sqlite_errorcode", sqlite3.SQLITE_ERROR)  # text that is no UTF-8 comes without
        if isinstance(reason, OSError | sqlite3.OperationalError) and code != sqlite3.SQLITE_ERROR:
            return self._give_up(reason)
        try:
            for suffix in ("-wal", "-shm", ""):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{self.path}{suffix}")
            self._open()
        except (OSError, *DATABASE_ERRORS, _OtherVersionError) as error:
            self._give_up(error)
        else:
            self.notes.append(f"{self.path} could not be used ({reason}): rebuilt from the run folders")

    def _give_up(self, reason: Exception) -> None:
        self.close()
        self.notes.append(f"{self.path} cannot be used ({reason}): the run folders were read instead, which is slower")


class _OtherVersionError(Exception):
    """The cache was written by another version of esper."""


class _ForeignError(Exception):
    """What has the cache's name is none, and stays."""


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)

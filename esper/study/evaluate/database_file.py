"""The file that evaluations are kept in: an SQLite database of esper's, told from others, and what is asked of it."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from esper.errors import EsperError
from esper.files import misfit
from esper.study.databases import DATABASE_ERRORS

SCHEMA_VERSION = 1
BUSY_TIMEOUT_S = 30.0
_APPLICATION = 0x45535052  # tells our files from other SQLite databases
_SCHEMA = """
CREATE TABLE versions (
    id INTEGER PRIMARY KEY,
    sha256 TEXT NOT NULL UNIQUE CHECK (length(sha256) = 64),
    tensors_sha256 TEXT NOT NULL CHECK (length(tensors_sha256) = 64),
    policy TEXT NOT NULL,
    task TEXT NOT NULL,
    config TEXT NOT NULL,
    added_at TEXT NOT NULL
);
CREATE TABLE sources (
    version INTEGER NOT NULL REFERENCES versions (id) ON DELETE CASCADE,
    uid TEXT NOT NULL,
    epoch INTEGER NOT NULL CHECK (epoch >= 0),
    path TEXT NOT NULL,
    PRIMARY KEY (version, uid, epoch)
) WITHOUT ROWID;
CREATE TABLE suites (
    id INTEGER PRIMARY KEY,
    sha256 TEXT NOT NULL UNIQUE CHECK (length(sha256) = 64),
    name TEXT NOT NULL,
    content TEXT NOT NULL,
    added_at TEXT NOT NULL
);
CREATE TABLE evaluations (
    id INTEGER PRIMARY KEY,
    version INTEGER NOT NULL REFERENCES versions (id) ON DELETE CASCADE,
    suite INTEGER NOT NULL REFERENCES suites (id) ON DELETE CASCADE,
    seed INTEGER NOT NULL CHECK (seed >= 0),
    status TEXT NOT NULL CHECK (status IN ('finished', 'failed')),
    error TEXT,
    wall_s REAL NOT NULL CHECK (wall_s >= 0),
    ended_at TEXT NOT NULL,
    esper TEXT NOT NULL,
    UNIQUE (version, suite, seed),
    CHECK ((status = 'failed') = (error IS NOT NULL))
);
CREATE INDEX evaluations_of_suites ON evaluations (suite);
CREATE TABLE samples (
    evaluation INTEGER NOT NULL REFERENCES evaluations (id) ON DELETE CASCADE,
    metric TEXT NOT NULL,
    member INTEGER NOT NULL CHECK (member >= 0),
    value REAL NOT NULL CHECK (typeof(value) = 'real'),
    PRIMARY KEY (evaluation, metric, member)
) WITHOUT ROWID;
"""
_ROW = {
    **dict.fromkeys(("id", "version", "suite", "evaluation", "seed", "epoch", "members"), int),
    **dict.fromkeys(("sha256", "tensors_sha256", "policy", "task", "config", "uid", "path", "name", "content"), str),
    **dict.fromkeys(("added_at", "ended_at", "status", "esper", "metric"), str),
    **dict.fromkeys(("wall_s", "mean"), float),
    "error": (str, None),
}


class DatabaseFile:
    """Use as a context manager. Any number of processes may share it.

    Raises EsperError where the file is no such database, or is of another version, or (is_new: False) is not there.
    """

    def __init__(self, path: str | Path, is_new: bool = True) -> None:
        self.path = Path(path)
        if not is_new and not self.path.is_file():
            raise EsperError(f"{path}: there is no such database\n  esper evaluate RUN --db {path} makes one")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # SQLite would wait for what a FIFO has to say, and make what a link to nowhere names.
            if os.path.lexists(self.path) and not self.path.is_file():
                raise OSError("it is no file")
            self._base = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise EsperError(f"{path}: cannot be opened ({error})\n  expected a file that can be written to") from error
        self._base.row_factory = sqlite3.Row
        try:
            self._prepare()
        except BaseException:
            self._base.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._base.close()

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Rows whose columns are of the types that their tables say: SQLite checks none of what is there already."""
        with self._answered():
            rows = [dict(row) for row in self._base.execute(query, values)]
        for row in rows:
            if problem := misfit(row, _ROW, ()):
                raise EsperError(f"{self.path}: it is damaged: {problem}\n  choose another file with --db")
        return rows

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Inside, all is written or nothing; never for longer than it takes to write."""
        with self._answered():
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield self._base
            except BaseException:
                self._base.execute("ROLLBACK")
                raise
            self._base.execute("COMMIT")

    def _pragma(self, name: str) -> int:
        return int(self._base.execute(f"PRAGMA {name}").fetchone()[0])

    @contextmanager
    def _answered(self) -> Iterator[None]:
        try:
            yield
        except (*DATABASE_ERRORS, OverflowError) as error:
            raise EsperError(
                f"{self.path}: {error}\n  what was written earlier is intact; expected an SQLite database of esper's"
            ) from error

    def _prepare(self) -> None:
        """Make the tables in a file that is new, and refuse one that is not ours."""
        with self._answered():
            self._base.execute("PRAGMA foreign_keys = ON")
        if not self._is_ours():
            with self.transaction() as base:
                if not self._is_ours():  # nor has another process made it so meanwhile
                    for statement in _SCHEMA.split(";\n"):
                        base.execute(statement)
                    base.execute(f"PRAGMA application_id = {_APPLICATION}")
                    base.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        with self._answered(), suppress(sqlite3.OperationalError):  # busy, whatever the timeout: another does it
            self._base.execute("PRAGMA journal_mode = WAL")  # readers and the one who writes do not wait for each other

    def _is_ours(self) -> bool:
        """Whether the tables are there; raises where others are."""
        with self._answered():
            # In this order: another process may be making all of it, in one transaction.
            is_empty = self._base.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
            application, version = self._pragma("application_id"), self._pragma("user_version")
        if not is_empty and (application, version) != (_APPLICATION, SCHEMA_VERSION):
            found = f"evaluations of schema {version}" if application == _APPLICATION else "another database"
            raise EsperError(
                f"{self.path}: holds {found}; expected evaluations of schema {SCHEMA_VERSION}\n"
                "  choose another file with --db"
            )
        return not is_empty

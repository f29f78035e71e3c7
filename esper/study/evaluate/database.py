"""The database of evaluations: which version was measured by which suite on which seed, and what came of it.

A version is what a checkpoint holds: equal tensors under an equal configuration are one version, wherever they lie.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from esper import __version__
from esper.errors import EsperError, FormatError
from esper.files import misfit, parse_json

SCHEMA_VERSION = 1
BUSY_TIMEOUT_S = 30.0
_KEY = "version = ? AND suite = ? AND seed = ?"
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


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of one seed.

    samples: metric -> a value a member; none where it failed. error: why it failed. wall_s: what the seed took.
    """

    seed: int
    samples: Mapping[str, Sequence[float]]
    wall_s: float
    error: str | None = None


class Evaluations:
    """The database in a file; use as a context manager. Any number of processes may share it.

    Raises EsperError where the file is no such database, or is of another version, or (is_new: False) is not there.
    """

    def __init__(self, path: str | Path, is_new: bool = True) -> None:
        self.path = Path(path)
        if not is_new and not self.path.is_file():
            raise EsperError(f"{path}: there is no such database\n  esper evaluate RUN --db {path} makes one")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and not self.path.is_file():  # SQLite would wait for what a FIFO has to say
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

    def add_version(self, sha256: str, tensors_sha256: str, policy: str, config: Mapping[str, Any]) -> int:
        """The number of this version, which is added if it is new."""
        values = (sha256, tensors_sha256, policy, config["task"]["name"], json.dumps(config), _now())
        with self._transaction() as base:
            base.execute(
                "INSERT INTO versions (sha256, tensors_sha256, policy, task, config, added_at)"
                " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                values,
            )
            return int(base.execute("SELECT id FROM versions WHERE sha256 = ?", (sha256,)).fetchone()[0])

    def add_source(self, version: int, uid: str, epoch: int, path: str) -> None:
        """A run has this version as the checkpoint of this epoch; where the run moved, its new path counts."""
        with self._transaction() as base:
            base.execute(
                "INSERT INTO sources (version, uid, epoch, path) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (version, uid, epoch) DO UPDATE SET path = excluded.path",
                (version, uid, epoch, path),
            )

    def add_suite(self, sha256: str, name: str, content: Mapping[str, Any]) -> int:
        """The number of this suite, which is added if it is new."""
        with self._transaction() as base:
            base.execute(
                "INSERT INTO suites (sha256, name, content, added_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (sha256, name, json.dumps(content), _now()),
            )
            return int(base.execute("SELECT id FROM suites WHERE sha256 = ?", (sha256,)).fetchone()[0])

    def statuses(self, version_sha256: str, suite_sha256: str) -> dict[int, str]:
        """seed -> "finished" or "failed", of every evaluation of this version by this suite."""
        found = self._rows(
            "SELECT seed, status FROM evaluations JOIN versions ON versions.id = version"
            " JOIN suites ON suites.id = suite WHERE versions.sha256 = ? AND suites.sha256 = ?",
            (version_sha256, suite_sha256),
        )
        return {row["seed"]: row["status"] for row in found}

    def add(self, version: int, suite: int, measured: Measured) -> None:
        """Write one seed's results, all or nothing. What finished stays; what failed gives way to this."""
        status = "finished" if measured.error is None else "failed"
        with self._transaction() as base:
            written = base.execute(
                "INSERT INTO evaluations (version, suite, seed, status, error, wall_s, ended_at, esper)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (version, suite, seed) DO UPDATE SET"
                " status = excluded.status, error = excluded.error, wall_s = excluded.wall_s,"
                " ended_at = excluded.ended_at, esper = excluded.esper WHERE evaluations.status = 'failed'",
                (version, suite, measured.seed, status, measured.error, measured.wall_s, _now(), __version__),
            )
            if not written.rowcount:  # another process has measured this seed meanwhile
                return
            key = (version, suite, measured.seed)
            (number,) = base.execute(f"SELECT id FROM evaluations WHERE {_KEY}", key).fetchone()
            base.executemany(
                "INSERT INTO samples (evaluation, metric, member, value) VALUES (?, ?, ?, ?)",
                (
                    (number, metric, member, value)
                    for metric, values in measured.samples.items()
                    for member, value in enumerate(values)
                ),
            )

    # ---- reading

    def versions(self) -> list[dict[str, Any]]:
        """Every version, in the order of their adding, with its "sources": uid, epoch and path of the runs it is of."""
        rows = self._rows("SELECT * FROM versions ORDER BY id")
        sources: dict[int, list[dict[str, Any]]] = {row["id"]: [] for row in rows}
        for row in self._rows("SELECT * FROM sources ORDER BY version, epoch, path"):
            if row["version"] in sources:
                sources[row["version"]].append({key: row[key] for key in ("uid", "epoch", "path")})
        return [row | {"config": self._config(row), "sources": sources[row["id"]]} for row in rows]

    def suites(self) -> list[dict[str, Any]]:
        """Every suite, in the order of their adding."""
        return self._rows("SELECT * FROM suites ORDER BY id")

    def evaluations(self, versions: Iterable[int], suites: Iterable[int]) -> list[dict[str, Any]]:
        """Every evaluation of these versions by these suites, by seed; "metrics": the mean over members of each."""
        where = f"version IN ({_listed(versions)}) AND suite IN ({_listed(suites)})"
        found = self._rows(f"SELECT * FROM evaluations WHERE {where} ORDER BY version, suite, seed")
        rows = {row["id"]: row | {"metrics": {}, "members": 0} for row in found}
        means = self._rows(
            "SELECT evaluation, metric, avg(value) AS mean, count(*) AS members FROM samples JOIN evaluations ON id ="
            f" evaluation WHERE {where} GROUP BY evaluation, metric"
        )
        for mean in means:
            rows[mean["evaluation"]]["metrics"][mean["metric"]] = mean["mean"]
            rows[mean["evaluation"]]["members"] = mean["members"]
        return list(rows.values())

    def __enter__(self) -> "Evaluations":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._base.close()

    # ---- the file

    def _prepare(self) -> None:
        """Make the tables in a file that is new, and refuse one that is not ours."""
        with self._answered():
            self._base.execute("PRAGMA foreign_keys = ON")
        if not self._is_ours():
            with self._transaction() as base:
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

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Rows whose columns are of the types that their tables say: SQLite checks none of what is there already."""
        with self._answered():
            rows = [dict(row) for row in self._base.execute(query, values)]
        for row in rows:
            if problem := misfit(row, _ROW, ()):
                raise EsperError(f"{self.path}: it is damaged: {problem}\n  choose another file with --db")
        return rows

    def _config(self, version: dict[str, Any]) -> dict[str, Any]:
        try:
            config = parse_json(version["config"].encode())
            if problem := misfit(config, {"task": {"name": str}}):
                raise FormatError(problem)
        except FormatError as error:
            raise EsperError(
                f"{self.path}: it is damaged: the configuration of version {version['sha256'][:8]}: {error}\n"
                "  choose another file with --db"
            ) from error
        return dict(config)

    def _pragma(self, name: str) -> int:
        return int(self._base.execute(f"PRAGMA {name}").fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Inside, all is written or nothing; never for longer than it takes to write."""
        with self._answered():
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield self._base
            except BaseException:
                self._base.execute("ROLLBACK")
                raise
            self._base.execute("COMMIT")

    @contextmanager
    def _answered(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OverflowError) as error:
            raise EsperError(
                f"{self.path}: {error}\n  what was written earlier is intact; expected an SQLite database of esper's"
            ) from error


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(str(int(number)) for number in numbers)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")

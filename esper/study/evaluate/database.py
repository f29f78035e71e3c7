"""The database of evaluations: which version was measured by which suite on which seed, and what came of it.

A version is what a checkpoint holds: equal tensors under an equal configuration are one version, wherever they lie.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from esper import __version__
from esper.errors import EsperError, FormatError
from esper.files import misfit, parse_json
from esper.study.evaluate.database_file import DatabaseFile

_KEY = "version = ? AND suite = ? AND seed = ?"


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of one seed.

    samples: metric -> a value a member; none where it failed. error: why it failed. wall_s: what the seed took.
    """

    seed: int
    samples: Mapping[str, Sequence[float]]
    wall_s: float
    error: str | None = None


class Evaluations(DatabaseFile):
    """Versions, suites, and what came of each seed; a context manager, which any number of processes may share."""

    def add_version(self, sha256: str, tensors_sha256: str, policy: str, config: Mapping[str, Any]) -> int:
        """The number of this version, which is added if it is new."""
        values = (sha256, tensors_sha256, policy, config["task"]["name"], json.dumps(config), _now())
        with self.transaction() as base:
            base.execute(
                "INSERT INTO versions (sha256, tensors_sha256, policy, task, config, added_at)"
                " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                values,
            )
            return int(base.execute("SELECT id FROM versions WHERE sha256 = ?", (sha256,)).fetchone()[0])

    def add_source(self, version: int, uid: str, epoch: int, path: str) -> None:
        """A run has this version as the checkpoint of this epoch; where the run moved, its new path counts."""
        with self.transaction() as base:
            base.execute(
                "INSERT INTO sources (version, uid, epoch, path) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (version, uid, epoch) DO UPDATE SET path = excluded.path",
                (version, uid, epoch, path),
            )

    def add_suite(self, sha256: str, name: str, content: Mapping[str, Any]) -> int:
        """The number of this suite, which is added if it is new."""
        with self.transaction() as base:
            base.execute(
                "INSERT INTO suites (sha256, name, content, added_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (sha256, name, json.dumps(content), _now()),
            )
            return int(base.execute("SELECT id FROM suites WHERE sha256 = ?", (sha256,)).fetchone()[0])

    def statuses(self, version_sha256: str, suite_sha256: str) -> dict[int, str]:
        """seed -> "finished" or "failed", of every evaluation of this version by this suite."""
        found = self.rows(
            "SELECT seed, status FROM evaluations JOIN versions ON versions.id = version"
            " JOIN suites ON suites.id = suite WHERE versions.sha256 = ? AND suites.sha256 = ?",
            (version_sha256, suite_sha256),
        )
        return {row["seed"]: row["status"] for row in found}

    def add(self, version: int, suite: int, measured: Measured) -> None:
        """Write one seed's results, all or nothing. What finished stays; what failed gives way to this."""
        status = "finished" if measured.error is None else "failed"
        with self.transaction() as base:
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
        rows = self.rows("SELECT * FROM versions ORDER BY id")
        sources: dict[int, list[dict[str, Any]]] = {row["id"]: [] for row in rows}
        for row in self.rows("SELECT * FROM sources ORDER BY version, epoch, path"):
            if row["version"] in sources:
                sources[row["version"]].append({key: row[key] for key in ("uid", "epoch", "path")})
        return [row | {"config": self._config(row), "sources": sources[row["id"]]} for row in rows]

    def suites(self) -> list[dict[str, Any]]:
        """Every suite, in the order of their adding."""
        return self.rows("SELECT * FROM suites ORDER BY id")

    def evaluations(self, versions: Iterable[int], suites: Iterable[int]) -> list[dict[str, Any]]:
        """Every evaluation of these versions by these suites, by seed; "metrics": the mean over members of each."""
        where = f"version IN ({_listed(versions)}) AND suite IN ({_listed(suites)})"
        found = self.rows(f"SELECT * FROM evaluations WHERE {where} ORDER BY version, suite, seed")
        rows = {row["id"]: row | {"metrics": {}, "members": 0} for row in found}
        means = self.rows(
            "SELECT evaluation, metric, avg(value) AS mean, count(*) AS members FROM samples JOIN evaluations ON id ="
            f" evaluation WHERE {where} GROUP BY evaluation, metric"
        )
        for mean in means:
            rows[mean["evaluation"]]["metrics"][mean["metric"]] = mean["mean"]
            rows[mean["evaluation"]]["members"] = mean["members"]
        return list(rows.values())

    def _config(self, version: dict[str, Any]) -> dict[str, Any]:
        try:
            config = parse_json(version["config"].encode())
            if problem := misfit(config, {"task": {"name": str}, "seed": (int, None)}, ("task", "name")):
                raise FormatError(problem)
        except FormatError as error:
            raise EsperError(
                f"{self.path}: it is damaged: the configuration of version {version['sha256'][:8]}: {error}\n"
                "  choose another file with --db"
            ) from error
        return dict(config)


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(str(int(number)) for number in numbers)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")

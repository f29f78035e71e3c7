"""The database keeps what it was given, once, whole, and whoever else writes."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest

from esper.errors import EsperError
from esper.study.evaluate.database import Evaluations, Measured
from esper.study.evaluate.database_file import SCHEMA_VERSION
from tests.study.filling import CONFIG, SUITE, failed, fill, finished

COLUMNS = "version, suite, seed, status, error, wall_s, ended_at, esper"


def rows(path, version=1, suite=1):
    with Evaluations(path, is_new=False) as database:
        return {row["seed"]: row for row in database.evaluations([version], [suite])}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "evaluations.sqlite"


def test_a_seed_is_the_mean_of_its_members(path):
    fill(path, [finished(9101, 80.0, 90.0)])
    row = rows(path)[9101]
    assert row["metrics"] == {"test_accuracy": 85.0}
    assert (row["members"], row["status"], row["error"], row["wall_s"]) == (2, "finished", None, 0.5)


def test_a_failure_is_a_row_with_its_error_and_no_value(path):
    fill(path, [failed(9101)])
    row = rows(path)[9101]
    assert (row["status"], row["error"], row["metrics"]) == ("failed", "no memory", {})


def test_what_failed_gives_way_and_what_finished_stays(path):
    version, suite = fill(path, [failed(1), finished(2, 80.0)])
    assert fill(path, [finished(1, 70.0), finished(2, 10.0), failed(2)]) == (version, suite)
    found = rows(path)
    assert found[1]["metrics"] == {"test_accuracy": 70.0} and found[1]["error"] is None
    assert found[2]["metrics"] == {"test_accuracy": 80.0} and found[2]["status"] == "finished"
    with Evaluations(path) as database:
        assert database.statuses("a" * 64, SUITE) == {1: "finished", 2: "finished"}
        assert database.statuses("f" * 64, SUITE) == {}


def test_a_result_that_cannot_be_written_whole_is_not_written_at_all(path):
    fill(path, [])
    with pytest.raises(EsperError, match="what was written earlier is intact"):
        fill(path, [Measured(1, {"a": [1.0], "b": [float("nan")]}, 0.5)])
    assert rows(path) == {}


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO samples VALUES (99, 'test_accuracy', 0, 1.0)",
        "UPDATE evaluations SET version = 99",
        f"INSERT INTO evaluations ({COLUMNS}) SELECT {COLUMNS} FROM evaluations",
        "UPDATE evaluations SET status = 'failed'",
        "UPDATE evaluations SET error = 'but why'",
        "UPDATE evaluations SET status = 'running'",
        "UPDATE samples SET value = NULL",
        "UPDATE samples SET value = 'high'",
        "UPDATE versions SET sha256 = 'short'",
    ],
)
def test_the_schema_itself_refuses_nonsense(path, statement):
    fill(path, [finished(1, 80.0)])
    with Evaluations(path) as database, pytest.raises(sqlite3.IntegrityError):
        database._base.execute(statement)


def test_what_belongs_to_a_version_goes_with_it(path):
    fill(path, [finished(1, 80.0)])
    with Evaluations(path) as database:
        database._base.execute("DELETE FROM versions")
        assert database._base.execute("SELECT count(*) FROM samples").fetchone()[0] == 0


def test_a_version_knows_every_run_that_has_it(path):
    version, _ = fill(path, [])
    with Evaluations(path) as database:
        for run in ("first", "second"):
            database.add_source(version, run, 5, f"outputs/{run}")
        database.add_source(version, "first", 5, "moved/first")
        (found,) = database.versions()
    assert [source["path"] for source in found["sources"]] == ["moved/first", "outputs/second"]
    assert found["config"] == CONFIG


def test_many_at_once_lose_nothing_and_write_nothing_twice(path):
    def work(number):
        common = [finished(seed, 80.0) for seed in range(10)]
        fill(path, [*common, *(finished(100 + 10 * number + seed, 80.0) for seed in range(10))])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    found = rows(path)
    assert len(found) == 10 + 80 and all(row["members"] == 1 for row in found.values())
    with Evaluations(path) as database:
        assert len(database.versions()) == len(database.suites()) == 1


def test_readers_and_the_writer_do_not_wait_for_each_other(path):
    fill(path, [finished(1, 80.0)])
    with Evaluations(path) as writer, Evaluations(path) as reader:
        writer._base.execute("BEGIN EXCLUSIVE")
        assert len(reader.evaluations([1], [1])) == 1
        writer._base.execute("ROLLBACK")


def test_another_database_is_refused_and_left_as_it_was(tmp_path):
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as base:
        base.execute("CREATE TABLE mine (a)")
    before = path.read_bytes()
    with pytest.raises(EsperError, match="another database"):
        Evaluations(path)
    assert path.read_bytes() == before


def test_another_version_and_what_is_no_database_are_refused(path):
    fill(path, [])
    with Evaluations(path) as database:
        database._base.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(EsperError, match=f"schema {SCHEMA_VERSION + 1}; expected evaluations of schema"):
        Evaluations(path)
    path.write_text("no database, and long enough to be looked at" * 100)
    with pytest.raises(EsperError, match="not a database"):
        Evaluations(path)
    with pytest.raises(EsperError, match="there is no such database"):
        Evaluations(path.with_name("missing.sqlite"), is_new=False)
    with pytest.raises(EsperError, match="cannot be opened"):
        Evaluations("/dev/null/x.sqlite")

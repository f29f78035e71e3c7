"""Conditions on runs, and their order."""

import pytest

from esper.errors import ConfigError, EsperError
from esper.study.runs.index import read_index
from esper.study.runs.query import Table, parse_filter
from tests.study.run_folders import make_run


@pytest.fixture
def table(tmp_path):
    for seed, (policy, best, rate) in enumerate([("ppo", 90.0, 0.1), ("ppo", 80.0, 0.01), ("static", 70.0, 0.1)]):
        config = {"optimizer": {"learning_rate": rate}, "checkpoint": {"keep": None}}
        make_run(tmp_path / f"digits_{policy}/{seed}", seed=seed, policy=policy, accuracy=[best, best], config=config)
    make_run(tmp_path / "bad/3", status="failed", seed=3, policy="iql", error="no data", age_s=7200)
    return Table(read_index(tmp_path).rows)


def kept(table: Table, *conditions: str) -> set[int]:
    table.filter(parse_filter(text) for text in conditions)
    return {row["seed"] for row in table.rows}


@pytest.mark.parametrize(
    ("conditions", "seeds"),
    [
        (["status=finished"], {0, 1, 2}),
        (["status!=finished"], {3}),
        (["policy=ppo,iql"], {0, 1, 3}),
        (["policy!=ppo,iql"], {2}),
        (["name=digits*"], {0, 1, 2}),
        (["test_accuracy>80"], {0}),
        (["test_accuracy>=80", "policy=ppo"], {0, 1}),
        (["test_accuracy<0.75"], {2}),
        (["seed=0,2"], {0, 2}),
        (["error=null"], {0, 1, 2}),
        (["optimizer.learning_rate=0.1"], {0, 2}),
        (["optimizer.learning_rate<0.1", "status=finished"], {1}),
        (["slots.isolate_gradients=true"], {0, 1, 2, 3}),
        (["engine.members>=2"], {0, 1, 2, 3}),
        (["checkpoint.keep=null", "seed<2"], {0, 1}),
        (["age<90m"], {0, 1, 2}),
        (["age>0.5h"], {3}),
        (["started_at>2000-01-01"], {0, 1, 2, 3}),
        ([" test_accuracy > 85 "], {0}),
        (["run=bad/*"], {3}),
        (["status=running"], set()),
        (["status=fin*"], {0, 1, 2}),
        (["test_accuracy=0.8,90%"], {0, 1}),
        (["run>c"], {0, 1, 2}),
    ],
)
def test_conditions(table, conditions, seeds):
    assert kept(table, *conditions) == seeds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("finished", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("status=finishd", "did you mean finished?"),
        ("status!=failed,kiled", "did you mean killed?"),
        ("seed>many", "expected a number after >"),
        ("statu=finished", "did you mean status?"),
        ("optimizer.learning_rat=3", "did you mean optimizer.learning_rate?"),
    ],
)
def test_mistakes_are_named(table, text, expected):
    with pytest.raises(EsperError, match=expected.replace("?", r"\?")) as raised:
        kept(table, text)
    assert len(str(raised.value).splitlines()) <= 2


def test_order(table):
    def order(*arguments):
        table.sort(*arguments)
        return [row["seed"] for row in table.rows]

    assert order(None)[-1] == 3  # the oldest
    assert order("test_accuracy") == [0, 1, 2, 3]
    assert order("test_accuracy", True) == [2, 1, 0, 3]  # what has none stays last
    assert order("policy")[0] == 3
    assert order("optimizer.learning_rate")[-2:] == [1, 3] or order("optimizer.learning_rate")[-2:] == [3, 1]
    with pytest.raises(EsperError, match="did you mean"):
        order("test_acuracy")


def test_no_condition_on_no_runs():
    table = Table([])
    table.filter([parse_filter("anything=1")])
    table.sort("anything")
    assert table.rows == []


def test_no_number_after_a_comparison_is_a_configuration_error():
    with pytest.raises(ConfigError):
        parse_filter("test_accuracy>")

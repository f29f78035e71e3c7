"""One grammar of conditions: what `--filter` takes, `--require` takes, and both read it alike."""

import pytest

from esper.cli import main
from esper.errors import ConfigError
from esper.study.analyze.requirement import Requirement
from esper.study.conditions import Condition
from esper.study.runs.query import parse_filter
from tests.study.filling import fill, finished, sha
from tests.study.run_folders import make_run

PARSERS = {"--filter": parse_filter, "--require": lambda text: Requirement.parse(text).condition}


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        ("test_accuracy>0.85", 85.5, True),
        ("test_accuracy>85", 85.0, False),
        ("test_accuracy >= 85%", 85.0, True),
        ("test_accuracy>0.9%", 1.0, True),
        ("test_accuracy<0.85", 84.0, True),
        ("test_accuracy=0.5,85", 85.0, True),
        ("test_accuracy!=85", 85.0, False),
        ("test_accuracy>0", 0.5, True),
        ("test_accuracy<=1e2", 100.0, True),
        ("test_accuracy>-1", 0.0, True),
        ("parameters<0.85", 0.8, True),
        (" parameters = 2506 ", 2506.0, True),
    ],
)
def test_both_read_it_alike(text, value, holds):
    for parse in PARSERS.values():
        assert parse(text).holds(value) is holds


@pytest.mark.parametrize(
    "text", ["", "test_accuracy", ">3", "test_accuracy~3", "test_accuracy>", "test_accuracy>high", "parameters<nan"]
)
def test_both_refuse_it_in_their_own_name(text):
    for option, parse in PARSERS.items():
        with pytest.raises(ConfigError) as raised:
            parse(text)
        assert str(raised.value).startswith(f"{option} {text}: expected ")
        assert len(str(raised.value).splitlines()) <= 2


def test_both_commands_say_how_a_share_was_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "outputs/a/b")
    fill(tmp_path / "outputs/evaluations.sqlite", [finished(1, 80.0)], sha("a"))
    assert main(["runs", "--filter", "test_accuracy>0.7"]) == 0
    assert "0.7 is read as 70%" in capsys.readouterr().err
    assert main(["analyze", "--require", "test_accuracy>0.7"]) == 0
    assert "0.7 is read as 70%" in capsys.readouterr().out
    assert parse_filter("test_accuracy=0.7,85").note == "0.7 is read as 70%"
    assert not parse_filter("seed=0.7").note and not parse_filter("test_accuracy>0").note


def test_text_is_ordered_where_a_key_holds_text_alone():
    assert parse_filter("started_at>2026").holds("2026-11-30T10:00") and parse_filter("age<2d").number == 2 * 86400
    assert not Condition.parse("optimizer.momentum>2", "--filter").holds("nesterov")

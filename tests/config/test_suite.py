"""Suites: what is shipped is explained, and what is wrong with one's own is said."""

import re
from dataclasses import fields

import pytest

from esper.config import compose
from esper.config.help import help_text
from esper.config.options import conf_dir, groups
from esper.config.suite import KINDS, read_suite, suites
from esper.errors import ConfigError

GROWTH = {"kind": "growth", "first_seed": 9101, "seeds": 20, "members": 2, "overrides": []}


def own(folder, **changes):
    path = folder / "mine.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in (GROWTH | changes).items() if value is not ...))
    return str(path)


@pytest.mark.parametrize("name", suites())
def test_every_suite_says_what_it_is_and_explains_every_key(name):
    suite, text = read_suite(name), (conf_dir() / "suite" / f"{name}.yaml").read_text()
    assert re.fullmatch(r"# [A-Z].*\.", text.splitlines()[0])
    for key in ["kind", *(field.name for field in fields(suite) if field.name != "name")]:
        assert re.search(rf"^# .+\n{key}:", text, re.MULTILINE), key


def test_what_a_user_would_expect_is_there():
    assert read_suite("default").seeds == 20
    assert {read_suite(name).kind for name in suites()} == set(KINDS)


def test_suites_are_no_group_of_a_run():
    assert "suite" not in groups()
    assert not re.search(r"^  suite\b", help_text(), re.MULTILINE)
    for override in ("suite=default", "+suite=default"):
        with pytest.raises(ConfigError):
            compose([override])


def test_a_suite_is_its_name_and_content_and_not_its_seeds(tmp_path):
    mine = read_suite(own(tmp_path)).content()
    assert read_suite(own(tmp_path, first_seed=1, seeds=3)).content() == mine
    assert read_suite(own(tmp_path, members=3)).content() != mine
    assert read_suite("default").content() == mine | {"name": "default"}


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"membrs": 3}, "membrs: there is no such key; did you mean members?"),
        ({"members": ...}, "members: a value is missing"),
        ({"members": 0}, "members=0: expected 1 to 4096"),
        ({"members": "many"}, "members: expected a whole number"),
        ({"first_seed": 2**31 - 5}, "first_seed + seeds"),
        ({"kind": "growht"}, "did you mean growth?"),
        ({"kind": ...}, "kind first (growth or hosts)"),
        ({"overrides": "[epochs]"}, "expected key=value"),
        ({"overrides": "[[]]"}, "overrides[0]=[]: expected text"),
        ({"overrides": "[seed=3]"}, "seed is not for a suite to change"),
        ({"overrides": "{"}, "cannot be read as YAML"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_short(tmp_path, changes, wanted):
    path = own(tmp_path, **changes)
    with pytest.raises(ConfigError) as caught:
        read_suite(path)
    assert wanted in str(caught.value) and path in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


def test_an_unknown_suite_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"defualt: there is no such suite; did you mean default\?"):
        read_suite("defualt")

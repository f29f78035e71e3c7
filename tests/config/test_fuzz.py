"""Whatever is typed, the front door answers with a configuration or with one or two lines."""

import contextlib
import io

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from esper.config.composing import compose, to_plain
from esper.config.options import groups
from esper.errors import ConfigError
from esper.run import main

PLAIN = to_plain(compose())
KEYS = [*PLAIN, *(f"{group}.{key}" for group in PLAIN if isinstance(PLAIN[group], dict) for key in PLAIN[group])]
NAMES = [name for options in groups().values() for name in options]

numbers = st.integers().map(str) | st.floats().map(repr)
words = st.sampled_from(
    ["null", "true", "???", "''", "[]", "{}", "[1,2]", "{a:1}", "a,b", "${seed}", "${x}", "${", *NAMES]
)
values = numbers | words | st.text(max_size=12)
mistyped = st.sampled_from(KEYS).flatmap(lambda key: st.integers(0, len(key)).map(lambda at: key[:at] + "x" + key[at:]))
typed_keys = st.sampled_from(KEYS) | mistyped | st.text(max_size=8)
marks = st.sampled_from(["", "", "", "+", "++", "~"])
overrides = st.builds("{}{}={}".format, marks, typed_keys, values) | st.text(max_size=15)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.lists(overrides, min_size=1, max_size=2))
@example(["seed=\x00"])
@example(["hydra.verbose={}"])
@example(["engine.members=" + "9" * 5000])
def test_any_override_is_taken_or_refused_in_short(typed):
    try:
        compose(typed)
    except ConfigError as error:
        lines = str(error).splitlines()
        assert 1 <= len(lines) <= 2
        assert all(len(line) < 400 for line in lines)


flags = st.sampled_from(
    ["-m", "-c", "--resolve", "-cn", "-cd", "--info", "-p", "--run", "--dry-run", "--experimental-rerun", "-x", "--"]
)
arguments = overrides | flags | st.text(max_size=6).map("resume={}".format)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(arguments, max_size=3))
@example(["-p", "nowhere"])
@example(["hydra.verbose={}"])
@example(["hydra.mode=MULTIRUN"])
@example(["zip=[seed]", "rerun=all"])
@example(["--dry-run", "-m", ""])
def test_any_command_line_is_taken_or_refused_in_short(typed):
    shown, answer = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(answer):
        code = main([*typed, "--cfg", "job"])  # composes and prints; nothing runs
    assert code in (0, 2)
    assert len(answer.getvalue().splitlines()) <= 2
    assert "Traceback" not in answer.getvalue()

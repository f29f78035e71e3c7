"""One rule says which name was meant."""

import ast
import math
from contextlib import nullcontext
from pathlib import Path

import pytest

from esper.checks import did_you_mean, in_range, is_number
from esper.cli.commands import COMMANDS
from esper.config.options import groups
from esper.errors import ConfigError
from esper.leyline.blueprints import BLUEPRINTS
from esper.sweep.sweeper import RERUN

ESPER = Path(__file__).resolve().parents[1] / "esper"
NAMES = groups() | {f"{topology} blueprints": names for topology, names in BLUEPRINTS.items()}
NAMES |= {"commands": COMMANDS, "rerun": RERUN, "slots": ("early", "mid", "late", "block1", "block2", "block3")}
FAR = ("zzzz", "", "q", "x" * 200, "0", "wholly-other", "\x1b[31m", "日本語")


def mistyped(name: str) -> list[str]:
    """Two letters swapped, one left out, one too many, another case."""
    middle = len(name) // 2
    swapped = name[: middle - 1] + name[middle] + name[middle - 1] + name[middle + 1 :]
    return [swapped, name[:middle] + name[middle + 1 :], f"{name}x", name.upper()]


@pytest.mark.parametrize("group", NAMES)
def test_a_name_is_found_by_what_is_near_it(group):
    known = list(NAMES[group])
    for name in known:
        for typed in mistyped(name):
            if typed not in known and len(name) > 3:
                assert did_you_mean(typed, known).startswith("; did you mean "), (typed, name)
        if len(name) > 5:
            assert did_you_mean(f"{name}x", known, "policy.{}") == f"; did you mean policy.{name}?"


@pytest.mark.parametrize("group", NAMES)
def test_what_is_far_from_all_names_is_not_guessed_at(group):
    for typed in FAR:
        assert did_you_mean(typed, NAMES[group]) == "", typed


def test_what_was_typed_is_no_answer():
    assert did_you_mean("norm", ["norm"]) == ""
    assert did_you_mean("norm", ["norm", "norms"]) == "; did you mean norms?"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("value", "is_one"),
    [(3, True), (0.5, True), (True, False), (math.nan, False), (-math.inf, False), (10**400, False)],
)
def test_a_number_is_finite_and_no_truth_value(value, is_one):
    assert is_number(value) is is_one
    with nullcontext() if is_one else pytest.raises(ConfigError, match=r"^epochs=.*: expected -5 to 5$"):
        in_range("epochs", value, -5, 5)


@pytest.mark.slow
def test_nothing_looks_for_near_names_by_another_rule():
    users = [
        file.relative_to(ESPER).as_posix()
        for file in ESPER.rglob("*.py")
        if any(
            "difflib" in (name.name for name in node.names) or getattr(node, "module", "") == "difflib"
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
        )
    ]
    assert users == ["checks.py"]

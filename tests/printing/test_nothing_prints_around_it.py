"""All that is printed goes through esper.printing."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ESPER = Path(__file__).resolve().parents[2] / "esper"
# What would print, or hand out what prints, unseen.
CALLS = {"print", "breakpoint"}
ATTRIBUTES = {
    *("sys.stdout", "sys.stderr", "sys.__stdout__", "sys.__stderr__"),
    *("traceback.print_exc", "traceback.print_exception", "traceback.print_tb", "traceback.print_stack"),
    *("logging.getLogger", "logging.warning", "logging.error", "logging.info", "os.write", "rich.print"),
}
MODULES = {
    "rich.console": {"Console", "print"},
    "rich.text": {"Text"},
    "rich": {"print", "console"},
    "pprint": {"pprint"},
}
ALLOWED = {
    ("sweep/terminal.py", "os.write"),  # to a pipe, which wakes a thread
    ("study/export/exporting.py", "logging.getLogger"),  # a library's own, to be silenced
    ("tasks/procedural/interpreter_worker.py", "sys.stdout"),  # the pipe that its answers go back by
}


def around(tree: ast.AST) -> Iterator[str]:
    """Each thing in the source that prints by itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
            yield node.func.id
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ATTRIBUTES:
            yield ast.unparse(node)
        if isinstance(node, ast.ImportFrom):
            for name in node.names:
                if name.name in MODULES.get(node.module or "", ()) or f"{node.module}.{name.name}" in ATTRIBUTES:
                    yield f"{node.module}.{name.name}"


def test_nothing_prints_around_it():
    found = {
        (file.relative_to(ESPER).as_posix(), what)
        for file in ESPER.rglob("*.py")
        if file.parent.name != "printing"
        for what in around(ast.parse(file.read_text()))
    }
    assert found == ALLOWED


@pytest.mark.parametrize(
    "line",
    [
        *("print('a')", "import sys; sys.stdout.write('a')", "import sys; print_to = sys.stderr"),
        *("from sys import stdout", "from rich.console import Console", "from rich.text import Text"),
        *(
            "import traceback; traceback.print_exc()",
            "import logging; logging.getLogger('a')",
            "from rich import print",
        ),
    ],
)
def test_it_would_be_seen(line):
    assert list(around(ast.parse(line)))

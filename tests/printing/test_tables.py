"""What is quoted in a table cannot steer a terminal."""

import builtins
import io

import pytest
import rich.text
from rich.progress import Progress, TextColumn
from rich.table import Table

from esper.printing.tables import Console, Text
from tests.printing.test_lines import HOSTILE


@pytest.mark.parametrize("text", HOSTILE)
def test_cells_titles_and_lines_are_spelled_out(text):
    file = io.StringIO()
    table = Table(box=None)
    table.add_column(Text(text))
    table.add_column(text)
    table.add_row(Text(text, "bold"), text)
    table.add_row(Text.assemble((text, "red"), text), Text("x ").append(text))
    console = Console(file=file, width_of_file=400)
    console.print(table)
    console.print(text)
    console.print(Text(text), soft_wrap=True)
    shown = file.getvalue()
    assert all(letter.isprintable() or letter == "\n" for letter in shown)
    assert len(shown.splitlines()) == 5  # a heading, two rows, two lines
    assert shown.count(HOSTILE[text]) == 9


def test_nothing_is_taken_for_markup():
    file = io.StringIO()
    Console(file=file).print("[red]a[/red] :smile: [b")
    assert file.getvalue() == "[red]a[/red] :smile: [b\n"


def test_a_notebook_gets_lines_of_text_where_they_are_sent(monkeypatch):
    class ZMQInteractiveShell:  # by whose name rich knows a notebook
        pass

    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    file = io.StringIO()
    Console(file=file).print("a line")
    assert file.getvalue() == "a line\n"


def test_on_a_terminal_only_our_own_colours_are_escapes():
    file = io.StringIO()
    Console(file=file, force_terminal=True, color_system="standard").print(Text("a\x1b[2J", "red"))
    assert file.getvalue() == "\x1b[31ma\\x1b[2J\x1b[0m\n"


@pytest.mark.parametrize("text", HOSTILE)
def test_parts_of_richs_own_are_spelled_out(text):
    file = io.StringIO()
    progress = Progress(TextColumn("{task.description}"), console=Console(file=file, width_of_file=400))
    progress.add_task(text.replace("[", "("))
    progress.console.print(progress, rich.text.Text(text))
    assert all(letter.isprintable() or letter == "\n" for letter in file.getvalue())

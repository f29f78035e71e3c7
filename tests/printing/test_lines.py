"""What is quoted in a line cannot steer a terminal."""

import io
import logging
import traceback

import pytest

from esper.errors import RunError
from esper.printing import in_short, logger, printable, say, say_text, say_traceback

# Control sequences, what opens them in eight bits, text that runs the other way, and what ends a line.
HOSTILE = {
    "\x1b[2J\x1b[31m": r"\x1b[2J\x1b[31m",
    "\x1b]0;title\x07": r"\x1b]0;title\x07",
    "\x9b31m\x9d8;;http://evil\x9c": r"\x9b31m\x9d8;;http://evil\x9c",
    "a\u202etxt.exe\u2066\u200f": r"a\u202etxt.exe\u2066\u200f",
    "a\nb\rc\x0bd\x85e\u2028f": r"a\nb\rc\x0bd\x85e\u2028f",
    "\x08\x7f\x00\ufeff\u200b": r"\x08\x7f\x00\ufeff\u200b",
    "caf\udce9": r"caf\udce9",
}
HARMLESS = ["", "plain", "naïve · ±3 → 日本語 😀", "a\tb", r"C:\new"]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_terminal_acts_on_is_spelled_out(text):
    assert printable(text) == HOSTILE[text]
    assert printable(f"before {text} after") == f"before {HOSTILE[text]} after"


@pytest.mark.parametrize("text", HARMLESS)
def test_all_else_stays_as_it_is(text):
    assert printable(text) == text


@pytest.mark.parametrize("text", HOSTILE)
def test_everything_that_prints_spells_it_out(text, capsys, caplog):
    say(f"name {text}", text)
    say(text, is_error=True)
    say_traceback(RuntimeError(text.replace("\n", " ")))
    logger("esper.tests").warning("failed: %s", text)
    printed = capsys.readouterr()
    for shown in (printed.out, printed.err, caplog.text):
        assert all(letter.isprintable() or letter in "\n" for letter in shown)
    assert printed.out == f"name {HOSTILE[text]}\n{HOSTILE[text]}\n"
    assert HOSTILE[text] in caplog.text


@pytest.mark.parametrize("text", HOSTILE)
def test_an_error_that_nobody_catches_steers_nothing_either(text):
    shown = "".join(traceback.format_exception_only(RunError(f"{text}\n  named {text}")))
    assert all(letter.isprintable() or letter in "\n\t" for letter in shown)


def test_lines_of_a_text_stay_lines_and_what_is_in_them_does_not_break_them(capsys):
    say_text("one\ntwo\x1b[1m\n\nfour\n")
    assert capsys.readouterr().out == "one\ntwo\\x1b[1m\n\nfour\n"


def test_a_message_has_two_lines_at_most():
    assert in_short("a\nb\nc\x1b") == "a b\nc\\x1b"


def test_a_file_can_be_printed_to():
    file = io.StringIO()
    say("a", "b\x1b", file=file)
    assert file.getvalue() == "a\nb\\x1b\n"


def test_a_logger_is_made_printable_once():
    assert len(logger("esper.again").filters) == len(logger("esper.again").filters) == 1
    logging.getLogger("esper.again").filters.clear()

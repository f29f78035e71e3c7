"""`esper tokenizer`."""

from pathlib import Path

import pytest

from esper.cli import main
from esper.tasks.text.tokenizer import get_tokenizer


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    for number in range(3):
        (tmp_path / f"notes/{number}.txt").write_text(f"note {number}: the cat sat on the mat\n" * 9)
    return tmp_path


def test_a_tokenizer_is_made_and_is_the_same_each_time(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (text / "same.json").write_text("what was there")
    for name in ("new/made.json", "same.json"):
        assert main(["tokenizer", "train", "notes", "--vocab", "280", "--out", name]) == 0
        assert capsys.readouterr().out == f"{name}: 280 tokens\n  to use it: task.tokenizer={name}\n"
    assert (text / "new/made.json").read_bytes() == (text / "same.json").read_bytes()
    tokenizer = get_tokenizer("same.json")
    assert tokenizer.vocab_size == 280
    assert tokenizer.decode(tokenizer.encode("the cat, a dog")) == "the cat, a dog"


def test_text_without_enough_pairs_makes_fewer_tokens_and_says_so(
    text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tokenizer", "train", "notes/0.txt", "--out", "made.json"]) == 0
    size = get_tokenizer("made.json").vocab_size
    assert f"{size} tokens (not 4,096: the text has no more pairs to merge)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["notes", "--vocab", "263", "--out", "a.json"], "--vocab=263: expected 264 to"),
        (["notes", "--out", "notes/a.json"], "--out notes/a.json: it would be part of its own text, notes"),
        (["notes/0.txt", "--out", "notes/0.txt"], "it would be part of its own text"),
        (["notes", "--out", "notes"], "--out notes: it is a folder"),
        (["notes", "notes/1.txt", "--out", "a.json"], "notes/1.txt lies inside notes"),
        (["nowhere", "--out", "a.json"], "TEXT=nowhere: cannot be read (No such file or directory)"),
        (["empty", "--out", "a.json"], "TEXT=empty: there is no text in it"),
        (["empty.txt", "--out", "a.json"], "empty.txt: there is no text to make a tokenizer from"),
    ],
)
def test_mistakes_are_answered_and_nothing_is_written(
    text: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    (text / "empty").mkdir()
    (text / "empty.txt").touch()
    before = {path: path.read_bytes() for path in text.rglob("*") if path.is_file()}
    assert main(["tokenizer", "train", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) <= 2
    assert {path: path.read_bytes() for path in text.rglob("*") if path.is_file()} == before

"""Hostile JSON, YAML and lines: answered at once, in a line, whoever reads them."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from esper.config.composing import from_plain, read_config
from esper.config.suite import read_suite
from esper.errors import CheckpointError, ConfigError, EsperError, FormatError
from esper.files import misfit, parse_json, parse_yaml, read_json, read_jsonl, read_yaml, reading
from esper.files.shapes import ANY, Among, Count, Moment, fitting
from tests.study.run_folders import make_run

PACKAGE = Path(__file__).parents[2] / "esper"

JSON_WEAPONS = {
    "lists": (b"[" * 1_000_000, "deeper than 100"),
    "closed lists": (b"[" * 100_000 + b"]" * 100_000, "deeper than 100"),
    "objects": (b'{"a":' * 1_000_000, "deeper than 100"),
    "just too deep": (b"[" * 102 + b"]" * 102, "deeper than 100"),
    "brackets in text hide the depth": (b'["]",' * 300 + b"1" + b"]" * 300, "deeper than 100"),
    "no number": (b'{"a": NaN}', "NaN"),
    "infinity": (b"[-Infinity]", "Infinity"),
    "infinity spelled out": (b"[1e999]", "beyond all bounds"),
    "infinity in digits": (b"[1" + b"0" * 400 + b".0]", "beyond all bounds"),
    "many digits": (b"[" + b"9" * 10_000 + b"]", "not JSON"),
    "vast": (b"[" + b"9" * 40 + b"]", "64 bits"),
    "half a character": (b'["\\ud800"]', "Unicode"),
    "no UTF-8": (b'["\xff"]', "not JSON"),
    "nothing": (b"", "not JSON"),
    "zeros": (b"\0" * 1000, "not JSON"),
}
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML_WEAPONS = {
    "brackets": ("[" * 100_000, ""),
    "deep": ("[" * 150 + "]" * 150, "deeper than 100"),
    "indents": ("".join(f"{' ' * depth}a:\n" for depth in range(150)), "deeper than 100"),
    "alias bomb": (BOMB, "line 2: aliases"),
    "recursive": ("a: &a [*a]", "aliases"),
    "recursive merge": ("a: &a\n  <<: *a", "aliases"),
    "python": ("!!python/object/apply:os.system [ls]", "not YAML"),
    "a date that is none": ("a: !!timestamp nope", "not YAML"),
    "an integer that is none": ("a: !!int ''", "not YAML"),
    "many digits": ("a: " + "9" * 10_000, "not YAML"),
    "no key": ("? [a]\n: b", "not YAML"),
    "control": ("a: \x07", "not YAML"),
    "large": ("# " + "x" * (1 << 20), "larger than"),
}  # fmt: skip


@pytest.mark.parametrize("weapon", JSON_WEAPONS)
def test_json(tmp_path: Path, weapon: str) -> None:
    data, expected = JSON_WEAPONS[weapon]
    began = time.process_time()
    with pytest.raises(FormatError, match=expected):
        parse_json(data)
    path = tmp_path / "run.json"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=expected):
        read_json(path)
    path.write_bytes(data + b'\n{"a": [{}]}\n')
    *lines, last = read_jsonl(path)
    assert last.record == {"a": [{}]}
    assert all(line.record is None and line.problem for line in lines)
    assert time.process_time() - began < 2


@pytest.mark.parametrize("weapon", YAML_WEAPONS)
def test_yaml(tmp_path: Path, weapon: str) -> None:
    text, expected = YAML_WEAPONS[weapon]
    began = time.process_time()
    with pytest.raises(FormatError, match=expected):
        parse_yaml(text)
    folder = make_run(tmp_path / "a")
    (folder / "config.yaml").write_text(text)
    for read in (lambda: read_config(folder / "config.yaml"), lambda: read_suite(str(folder / "config.yaml"))):
        with pytest.raises(ConfigError) as caught:
            read()
        assert len(str(caught.value).splitlines()) <= 2
    assert time.process_time() - began < 2


@pytest.mark.sampled(1)
@pytest.mark.parametrize("command", ["runs", "report", "compare", "evaluate", "resume"])
def test_no_command_crashes_on_a_configuration_that_is_a_weapon(tmp_path: Path, command: str) -> None:
    for name in ("a", "b"):
        folder = make_run(tmp_path / "outputs" / name)
        (folder / "config.yaml").write_text("[" * 100_000)
    further = {"runs": ["--filter", "optimizer.learning_rate>0"], "compare": ["b"]}.get(command, [])
    arguments = [command, *([] if command == "runs" else ["a"]), *further]
    done = subprocess.run(
        [sys.executable, "-m", "esper.cli", *arguments],
        cwd=tmp_path, env={"PYTHONPATH": str(PACKAGE.parent), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode in (0, 2), done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 3


def test_what_is_sound_is_read(tmp_path: Path) -> None:
    deep = json.loads("[" * 99 + "]" * 99)
    value = {"deep": deep, "text": "ä\\ud", "numbers": [1.5e300, -(2**63), 2**63 - 1], "words": "[" * 500}
    assert parse_json(json.dumps(value).encode()) == value
    assert parse_json(b"[" + b"9" * 40 + b"]", has_vast_integers=True) == [int("9" * 40)]  # a generator's state
    assert parse_yaml("a: [1, {b: 2.5}]\nc: &name d") == {"a": [1, {"b": 2.5}], "c": "d"}


@pytest.mark.parametrize("reader", [read_json, read_yaml])
def test_size_is_bounded_before_it_is_read(tmp_path: Path, reader: Any) -> None:
    path = tmp_path / "sparse"
    path.touch()
    with open(path, "r+b") as file:
        file.truncate(1 << 40)
    began = time.process_time()
    with pytest.raises(FormatError, match="larger than"):
        reader(path)
    assert time.process_time() - began < 5


def test_a_line_without_end_is_one_line_that_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_LINE_BYTES", 1000)
    path = tmp_path / "lines"
    path.write_bytes(b'{"a":1}\n' + b" " * 2500 + b'{"a":2}\n{"a":3}\n')
    assert [line.record for line in read_jsonl(path)] == [{"a": 1}, None, {"a": 3}]
    assert [line.number for line in read_jsonl(path)] == [1, 2, 3]
    monkeypatch.setattr(reading, "MOST_LINES_BYTES", 1500)
    assert len(list(read_jsonl(path))) == 2


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "a${seed}", "${name}${name}"])
def test_what_was_resolved_holds_no_interpolation(text: str) -> None:
    from esper.config.composing import compose, to_plain

    values = to_plain(compose([]))
    values["name"] = text
    with pytest.raises(ConfigError, match=r"config: .*interpolations"):
        from_plain(values, "config")


SHAPE = {"n": Count(10), "t": Moment(), "s": Among("a", "b"), "x": (float, None), "l": [{"k": str}], "m": {ANY: bool}}
SOUND: dict[str, Any] = {"n": 1, "t": None, "s": "a", "x": 1, "l": [{"k": ""}], "m": {"a": True}, "more": object()}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("n", 11, "n is 11; expected an integer from 0 to 10"),
        ("n", True, "n is true"),
        ("t", "yesterday", "t is 'yesterday'; expected a time"),
        ("t", "2026-01-01", "expected a time"),
        ("s", "c", "expected one of a, b"),
        ("x", "1", "x is '1'; expected a number or null"),
        ("l", {}, "l is an object; expected a list"),
        ("l", [{"k": ""}, {"k": 1}], r"l\[1\].k is 1; expected text"),
        ("l", [{}], r"l\[0\]: there is no 'k'"),
        ("m", {"a": 1}, "m.a is 1; expected true or false"),
        ("m", None, "m is null; expected an object"),
    ],
)
def test_a_shape_tells_where_a_value_does_not_fit(name: str, value: Any, expected: str) -> None:
    assert misfit(SOUND, SHAPE) is None
    found = misfit(SOUND | {name: value}, SHAPE)
    assert found and re.search(expected, found)
    kept, problems = fitting(SOUND | {name: value}, SHAPE, {"k"})
    assert problems == [found] and kept.keys() == SOUND.keys() - {name}


def test_only_what_is_required_must_be_there() -> None:
    assert misfit({}, SHAPE, ()) is None
    assert misfit({}, SHAPE, {"x"}) == "there is no 'x'"


ONLY_HERE = re.compile(r"\bjson\.loads?\(|\byaml\.\w*load\w*\(|OmegaConf\.load\(|\.read_text\(|\.read_bytes\(")
ALLOWED = {
    "files/reading.py",  # the readers themselves
    "sweep/composing.py",  # makes a value plain by way of text of its own
    "config/help.py",  # shipped files
    "forge/help.py",
    "tasks/procedural/interpreter_worker.py",  # an isolated process, which has nothing but the standard library
    "engine/kernels/compiler.py",  # what is compiled, and the processor that it is for
}


def test_nothing_is_parsed_but_by_the_one_reader_of_its_format() -> None:
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if ONLY_HERE.search(path.read_text(encoding="utf-8"))
    }
    assert found == ALLOWED


def test_a_sidecar_too_large_to_be_read_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from esper.checkpoint import Checkpoint, read_bundle, sidecar, write_bundle

    monkeypatch.setattr(sidecar, "MOST_BYTES", 2000)
    write_bundle(tmp_path / "a", Checkpoint(tensors={}))
    with pytest.raises(CheckpointError, match="cannot be read back"):
        write_bundle(tmp_path / "a", Checkpoint(tensors={}, state={"x": "y" * 2000}))
    assert read_bundle(tmp_path / "a").state == {}
    (tmp_path / "a.json").write_bytes(b" " * 3000)
    with pytest.raises(EsperError, match="at most 2,000"):
        read_bundle(tmp_path / "a")


def test_no_more_is_read_than_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(1000))
    assert reading.read_bytes(tmp_path / "file", 1000) == bytes(1000)
    with pytest.raises(FormatError, match="larger than 999 bytes"):
        reading.read_bytes(tmp_path / "file", 999)

"""What is done to a file: bytes and lines altered, values of other types, signed anew, or all of it replaced."""

import hashlib
import json
import os
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml

from esper.checkpoint.plain import fingerprint

Damage = Callable[[Path, random.Random], str]  # says what it did; "" where the file is none that it could be done to

_LINES = (".jsonl", ".json", ".yaml")
_DEEP: list[Any] = []
for _ in range(150):
    _DEEP = [_DEEP]
WRONG: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 7, 1.5, -0.5, 2**31, 2**53 + 1, 2**63, -(2**63), 10**30, 1e308, -1e308, 5e-324),
    *(
        float("nan"),
        float("inf"),
        "",
        "x",
        "0",
        "1e5",
        "nan",
        "true",
        "\0",
        "\ud800",
        "a\nb",
        "\x1b[31m\u202e\x9b",
        "é" * 300,
    ),
    *("../../x", "/", ".", "2026-01-01", "2026-01-01T00:00:00+00:00", "0001-01-01T00:00:00+14:00", "x" * 100_000),
    *([], {}, [1], ["x"], [None], [[]], {"a": 1}, {"": {}}, {"x": [float("inf")]}, [0] * 5000, _DEEP),
)
HOSTILE = (
    *(
        b"",
        b"\0" * 64,
        b"\xff\xfe\x00",
        b"null",
        b"[]",
        b"{}",
        b"0",
        b'"text"',
        b"NaN",
        b"1" * 5000,
        b"\n\n\n",
        b"a: b: c",
    ),
    *(b"[" * 100_000, b'{"a":' * 100_000, b"- " * 100_000, b"&a [*a, *a]\n", b"\xef\xbb\xbf{}", b'{"schema": 1}'),
    *(b'{"schema": 1e400}', b"!!python/object/apply:os.abort []\n", b"\x1b]0;title\x07\x9b31m\xe2\x80\xae"),
    *(
        b'{"schema": 1, "epoch": 18446744073709551616}\n' * 3,
        b"SQLite format 3\0" + b"\0" * 600,
        b"PK\x03\x04" + b"\0" * 40,
    ),
    *((2**62).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"{}", b"\x80\x05cos\nabort\n(tR."),
)


def bytes_altered(path: Path, draw: random.Random) -> str:
    """Some bytes or lines are other, more or fewer."""
    data = bytearray(path.read_bytes())
    if not data:
        return ""
    at, size = draw.randrange(len(data)), draw.choice((1, 1, 4, 64, 512))
    kinds = ["flip", "flip", "overwrite", "cut", "zeros", "insert", "remove", "double", "digit", "quote", "append"]
    kind = draw.choice(kinds + ["line"] * 5 * path.name.endswith(_LINES))
    match kind:
        case "flip":
            for _ in range(draw.choice((1, 1, 1, 8))):
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        case "overwrite":
            data[at : at + size] = draw.randbytes(size)
        case "cut":
            del data[at:]
        case "zeros":  # a block, as a power cut leaves it
            data[at : at + size] = bytes(len(data[at : at + size]))
        case "insert":
            data[at:at] = draw.choice(
                (draw.randbytes(size), b"\0", b"\xff", b"\n", b"\r\n", b"\xe2\x80\xa8", b"\x1b[2J")
            )
        case "remove":
            del data[at : at + size]
        case "double":
            data[at:at] = data[at : at + size]
        case "digit":
            places = [place for place, byte in enumerate(data) if chr(byte) in "0123456789"]
            data[draw.choice(places or [at])] = ord(draw.choice("0123456789-.e"))
        case "quote":
            places = [place for place, byte in enumerate(data) if chr(byte) in '{}[]",:']
            data[draw.choice(places or [at])] = ord(draw.choice('{}[]",: \n\\'))
        case "append":
            data += draw.choice((data[at:], b"\0", b"\n{}\n", b"[", draw.randbytes(size)))
        case "line":
            kind = f"line {_line(data, draw)}"
    path.write_bytes(data)
    return kind


def _line(data: bytearray, draw: random.Random) -> str:
    lines = data.split(b"\n")
    at, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    kind = draw.choice(("doubled", "removed", "swapped", "joined", "emptied"))
    match kind:
        case "doubled":
            lines.insert(other, lines[at])
        case "removed":
            del lines[at]
        case "swapped":
            lines[at], lines[other] = lines[other], lines[at]
        case "joined":
            lines[at : at + 2] = [b"".join(lines[at : at + 2])]
        case "emptied":
            lines[at] = bytearray()
    data[:] = b"\n".join(lines)
    return kind


def values_altered(path: Path, draw: random.Random) -> str:
    """What can be read holds a value of another type or size, or a key more or fewer."""
    if path.name.endswith(".sqlite"):
        return _cell_altered(path, draw)
    match path.suffix:
        case ".json":
            value, said = _altered(json.loads(path.read_bytes()), draw)
            text = json.dumps(value)
        case ".jsonl":
            lines = path.read_text().splitlines()
            at = draw.randrange(len(lines))
            value, said = _altered(json.loads(lines[at]), draw)
            lines[at] = json.dumps(value)
            text, said = "".join(f"{line}\n" for line in lines), f"line {at + 1}, {said}"
        case ".yaml":
            value, said = _altered(yaml.safe_load(path.read_bytes()), draw)
            text = yaml.dump(value, sort_keys=False, allow_unicode=False)
        case _:
            return ""
    path.write_text(text)
    return said


def _altered(value: Any, draw: random.Random) -> tuple[Any, str]:
    """With another value at some place; the higher places are met as often as all that is below them."""
    place: list[Any] = []
    inner = value
    while inner and isinstance(inner, dict | list) and (not place or draw.random() < 0.8):
        place.append(draw.choice([*inner]) if isinstance(inner, dict) else draw.randrange(len(inner)))
        outer, inner = inner, inner[place[-1]]
    wrong, kind = draw.choice(WRONG), draw.random()
    if not place or kind < 0.02:
        return wrong, f"all is {_short(wrong)}"
    said = ".".join(map(str, place))
    if kind < 0.15:
        del outer[place[-1]]
        return value, f"{said} is gone"
    if kind < 0.25 and isinstance(outer, dict):
        name = draw.choice(("x", "", "\x1b[31m", "*", str(place[-1]).upper(), "a.b", "__class__", "0"))
        outer[name] = outer.pop(place[-1]) if draw.random() < 0.5 else wrong
        return value, f"{said} is beside or called {name!r}"
    if kind < 0.35 and isinstance(inner, int | float):
        wrong = draw.choice((inner + 1, inner - 1, -inner, inner * 1000, float(inner), str(inner), [inner]))
    outer[place[-1]] = wrong
    return value, f"{said} is {_short(wrong)}"


def _cell_altered(path: Path, draw: random.Random) -> str:
    with closing(sqlite3.connect(path, isolation_level=None)) as base:
        base.execute("PRAGMA ignore_check_constraints = ON")
        tables = [name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        table = draw.choice(tables)
        if draw.random() < 0.1:
            sql = draw.choice((f'DROP TABLE "{table}"', f'DELETE FROM "{table}"', f'ALTER TABLE "{table}" RENAME TO x'))
            base.execute(sql)
            return sql
        if draw.random() < 0.1:
            sql = f"PRAGMA {draw.choice(('user_version', 'application_id'))} = {draw.choice((0, 2, -1, 2**31 - 1))}"
            base.execute(sql)
            return sql
        column = draw.choice([row[1] for row in base.execute(f'PRAGMA table_info("{table}")')])
        simple = [one for one in WRONG if not isinstance(one, list | dict | bool) and one != "\ud800"]
        wrong = draw.choice([one for one in simple if not isinstance(one, int) or abs(one) < 2**63] + [b"\xff", b""])
        cast = draw.choice(("?", "?", "CAST(? AS TEXT)", "CAST(? AS BLOB)"))
        try:
            base.execute(f'UPDATE "{table}" SET "{column}" = {cast}', (wrong,))
        except sqlite3.Error:  # the table's own rules; the file is as it was
            return ""
        return f"{table}.{column} is {cast} of {_short(wrong)}"


def signed_anew(path: Path, draw: random.Random) -> str:
    """A checkpoint's tensors or sidecar are other, and its checksums are right again."""
    if path.parent.name != "checkpoints":
        return ""
    tensors, sidecar_path = path.with_suffix(".safetensors"), path.with_suffix(".json")
    sidecar = json.loads(sidecar_path.read_bytes())
    del sidecar["self_sha256"]
    if path == sidecar_path:
        name = draw.choice([*sidecar])
        sidecar[name], said = _altered({name: sidecar[name]}, draw)
        sidecar[name] = sidecar[name].get(name, {}) if isinstance(sidecar[name], dict) else sidecar[name]
        said = f"{said}, signed"
    elif draw.random() < 0.5:
        data = tensors.read_bytes()
        body = 8 + int.from_bytes(data[:8], "little")
        header, said = _altered(json.loads(data[8:body]), draw)
        text = json.dumps(header).encode()
        tensors.write_bytes(len(text).to_bytes(8, "little") + text + data[body:])
        said = f"header: {said}, signed"
    else:
        said = f"{bytes_altered(tensors, draw)}, signed"
    data = tensors.read_bytes()
    sidecar |= (
        {"tensors_bytes": len(data), "tensors_sha256": hashlib.sha256(data).hexdigest()} if path == tensors else {}
    )
    try:
        text = json.dumps(sidecar | {"self_sha256": fingerprint(sidecar)})
        sidecar_path.write_text(text)
    except (ValueError, RecursionError):  # what cannot be signed
        return ""
    return said


def replaced(path: Path, draw: random.Random) -> str:
    """What lies there instead is nothing, a folder, a link, or hostile."""
    kind = draw.choice(
        ("lost", "folder", "link to nowhere", "link to itself", "link to its like", "pipe", *["hostile"] * 6)
    )
    path.unlink()
    match kind:
        case "folder":
            path.mkdir()
        case "link to nowhere":
            path.symlink_to(path.parent / "nowhere")
        case "link to itself":
            path.symlink_to(path)
        case "link to its like":
            path.symlink_to(Path(*("sound" if part == "root" else part for part in path.parts)))
        case "pipe":
            os.mkfifo(path)
        case "hostile":
            data = draw.choice(HOSTILE)
            path.write_bytes(data)
            return f"holds {data[:20]!r}"
    return kind


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) < 60 else f"{text[:57]}..."

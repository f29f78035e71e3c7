"""Reading JSON, JSON lines and YAML: of bounded size and depth, whoever wrote them.

What a file holds is answered with FormatError, a ValueError whose text says what is wrong and not where; a file that
cannot be opened, with OSError.
"""

import io
import json
import re
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from esper.errors import FormatError
from esper.files.opening import open_to_read
from esper.files.shapes import EVERY, Shape, misfit

MOST_BYTES = 1 << 28  # of a JSON file, such as a checkpoint's sidecar
MOST_YAML_BYTES = 1 << 20
MOST_LINE_BYTES = 1 << 26  # an epoch of 40,000 members
MOST_LINES_BYTES = 1 << 33  # of all lines of a file
MOST_DEPTH = 100  # lists and objects within each other

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_VAST = re.compile(rb"\d{19}|[eE]\+?\d{3}")  # a number that may not fit into 64 bits


class Line(NamedTuple):
    """A line of a file of JSON lines. `record`: the object in it, None where there is none for the reason `problem`."""

    number: int
    data: bytes
    record: dict[str, Any] | None
    problem: str


def parse_json(data: bytes, *, has_vast_integers: bool = False) -> Any:
    """The value of strict JSON. has_vast_integers: take some of more than 64 bits. Raises FormatError."""
    try:
        value = json.loads(data.decode(), parse_constant=_refuse_constant)
        if data.count(b"[") + data.count(b"{") > MOST_DEPTH and not _is_shallow(value):
            raise FormatError(f"it is nested deeper than {MOST_DEPTH} levels")
        if _SURROGATE.search(data) or _VAST.search(data):
            _check_leaves(value, has_vast_integers)
    except RecursionError:
        raise FormatError(f"it is nested deeper than {MOST_DEPTH} levels") from None
    except FormatError:
        raise
    except ValueError as error:
        raise FormatError(f"it is not JSON: {error}") from error
    return value


def read_json(path: Path | str, *, has_vast_integers: bool = False) -> Any:
    """The value in a JSON file. Raises FormatError and OSError."""
    return parse_json(read_bytes(path), has_vast_integers=has_vast_integers)


def read_object(path: Path | str, shape: Shape = dict, required: Container[str] = EVERY) -> dict[str, Any]:
    """The object of this shape in a JSON file. required: as of `misfit`. Raises FormatError and OSError."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise FormatError(f"it holds no object but {type(value).__name__}")
    if problem := misfit(value, shape, required):
        raise FormatError(problem)
    return value


def read_jsonl(path: Path | str, shape: Shape = dict, required: Container[str] = EVERY) -> Iterator[Line]:
    """The lines of a file, each with the object of this shape in it, or why there is none; blank ones are left out.

    Raises OSError.
    """
    with open_to_read(path) as raw:
        lines = io.BufferedReader(raw, 1 << 16)
        number = read = 0
        while (data := lines.readline(MOST_LINE_BYTES)) and read < MOST_LINES_BYTES:
            number, read = number + 1, read + len(data)
            if len(data) == MOST_LINE_BYTES and not data.endswith(b"\n"):
                while (rest := lines.readline(MOST_LINE_BYTES)) and read < MOST_LINES_BYTES:
                    read += len(rest)
                    if rest.endswith(b"\n"):
                        break
                yield Line(number, b"", None, f"it is longer than {MOST_LINE_BYTES:,} bytes")
            elif data.strip():
                yield _line(number, data, shape, required)


def parse_yaml(data: bytes | str) -> Any:
    """The value of YAML without aliases. Raises FormatError, which says in which line."""
    import yaml  # here, since most readers need none of it

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    if len(data) > MOST_YAML_BYTES:
        raise FormatError(f"it is larger than {MOST_YAML_BYTES:,} bytes")
    try:
        text = data.decode() if isinstance(data, bytes) else data
        depth = 0
        for event in yaml.parse(text, Loader=loader):  # reads without recursion, and makes nothing yet
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MOST_DEPTH:
                raise FormatError(f"it is nested deeper than {MOST_DEPTH} levels")
            if isinstance(event, yaml.AliasEvent):
                raise FormatError(f"line {event.start_mark.line + 1}: aliases (*{event.anchor}) are not taken here")
        return yaml.load(text, Loader=loader)
    except FormatError:
        raise
    except Exception as error:  # what is no YAML, and what its tags ask for, is answered with errors of many kinds
        raise FormatError(f"it is not YAML: {_in_a_line(error)}") from error


def read_yaml(path: Path | str) -> Any:
    """The value in a YAML file. Raises FormatError and OSError."""
    return parse_yaml(read_bytes(path, MOST_YAML_BYTES))


def read_bytes(path: Path | str, most_bytes: int = MOST_BYTES) -> bytes:
    """All that a plain file holds. Raises FormatError where that is more than most_bytes, and OSError."""
    with open_to_read(path) as file:
        return read_all(file, most_bytes)


def read_all(file: io.FileIO, most_bytes: int = MOST_BYTES) -> bytes:
    """As `read_bytes`, of a file that is open, from where it stands."""
    parts, size = [], 0
    while part := file.read(1 << 24):
        parts.append(part)
        if (size := size + len(part)) > most_bytes:
            raise FormatError(f"it is larger than {most_bytes:,} bytes")
    return b"".join(parts)


def _line(number: int, data: bytes, shape: Shape, required: Container[str]) -> Line:
    try:
        record = parse_json(data)
    except FormatError as error:
        return Line(number, data, None, str(error))
    if not isinstance(record, dict):
        return Line(number, data, None, f"it holds no object but {type(record).__name__}")
    problem = misfit(record, shape, required)
    return Line(number, data, None if problem else record, problem or "")


def _refuse_constant(name: str) -> NoReturn:
    raise FormatError(f"it is not JSON: there is no such number as {name}")


def _is_shallow(value: Any) -> bool:
    level = [value] if isinstance(value, list | dict) else []
    for _ in range(MOST_DEPTH):
        level = [
            child
            for outer in level
            for child in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(child, list | dict)
        ]
        if not level:
            return True
    return False


def _check_leaves(value: Any, has_vast_integers: bool) -> None:
    """Raise FormatError on infinity, on text that is no Unicode, and on integers of more than 64 bits."""
    pending = [value]
    while pending:
        match pending.pop():
            case dict() as outer:
                pending += [*outer.keys(), *outer.values()]
            case list() as outer:
                pending += outer
            case float() as number if number in (float("inf"), float("-inf")):
                raise FormatError("it holds a number beyond all bounds")
            case int() as number if not (has_vast_integers or -(1 << 63) <= number < 1 << 63):
                raise FormatError("it holds an integer of more than 64 bits")
            case str() as text:
                try:
                    text.encode()
                except UnicodeEncodeError:
                    raise FormatError("it holds text that is not valid Unicode") from None


def _in_a_line(error: Exception) -> str:
    mark, said = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is not None and said:
        return f"line {mark.line + 1}: {said}"
    return " ".join(str(error).split())[:120] or type(error).__name__

"""The shape that a plain value is to have, and where it has another."""

from collections.abc import Container, Mapping
from dataclasses import is_dataclass
from datetime import datetime
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from esper.errors import FormatError

# A type or None, several of them, {name: shape} for an object (more names may be there; `ANY` stands for every other
# name), [shape] for a list of them, or a `Kind`.
Shape = Any
T = TypeVar("T")
ANY = "*"

_WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "text", list: "a list", dict: "an object"}


class AllBut:
    """All names but these."""

    def __init__(self, *names: str) -> None:
        self.names = frozenset(names)

    def __contains__(self, name: object) -> bool:
        return name not in self.names


EVERY: Container[str] = AllBut()  # all names of a shape


class Kind:
    """A leaf that no type tells: `fits(value)`; `expected`: what that is, in words."""

    expected: str

    def fits(self, value: Any) -> bool:
        raise NotImplementedError


class Among(Kind):
    """One of these texts."""

    def __init__(self, *names: str) -> None:
        self.names = frozenset(names)
        self.expected = f"one of {', '.join(names)}"

    def fits(self, value: Any) -> bool:
        return isinstance(value, str) and value in self.names


class Count(Kind):
    """An integer from 0 to a bound that keeps whoever counts up to it from never coming back."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.expected = f"an integer from 0 to {most:,}"

    def fits(self, value: Any) -> bool:
        return type(value) is int and 0 <= value <= self.most


class Moment(Kind):
    """A time with its zone, as ISO 8601 text; None for one that has not come."""

    expected = "a time such as 2026-01-31T12:00:00+00:00"

    def fits(self, value: Any) -> bool:
        try:
            return value is None or datetime.fromisoformat(value).tzinfo is not None
        except (TypeError, ValueError):
            return False


def misfit(value: Any, shape: Shape, required: Container[str] = EVERY, where: str = "") -> str | None:
    """The first place where a value has not this shape, in words; None where it fits.

    required: names that must be there wherever the shape has them; others may be missing.
    """
    match shape:
        case Mapping():
            if type(value) is not dict:
                return _told(value, dict, where)
            other = shape.get(ANY)
            for name, inner in shape.items():
                if name in value:
                    # The commonest case by far, and a report reads millions of them.
                    if type(value[name]) is inner:
                        continue
                    if problem := misfit(value[name], inner, required, f"{where}.{name}" if where else name):
                        return problem
                elif name != ANY and name in required:
                    return f"{f'{where}: ' if where else ''}there is no {name!r}"
            if other is not None:
                for name in value.keys() - shape.keys():
                    if problem := misfit(value[name], other, required, f"{where}.{name}" if where else name):
                        return problem
            return None
        case list():
            if type(value) is not list:
                return _told(value, list, where)
            problems = (misfit(item, shape[0], required, f"{where}[{index}]") for index, item in enumerate(value))
            return next(filter(None, problems), None)
        case tuple():
            deeper = next((kind for kind in shape if isinstance(kind, dict | list) and type(value) is type(kind)), None)
            if deeper is not None:
                return misfit(value, deeper, required, where)
            return None if any(_is(value, kind) for kind in shape) else _told(value, shape, where)
    return None if _is(value, shape) else _told(value, shape, where)


def fitting(
    record: dict[str, Any], shape: Mapping[str, Any], required: Container[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """What of an object has the shape that its name is to have, and why the rest is left out."""
    problems = {name: misfit(record[name], shape[name], required, name) for name in record.keys() & shape.keys()}
    wrong = {name: problem for name, problem in problems.items() if problem}
    return {name: value for name, value in record.items() if name not in wrong}, sorted(wrong.values())


def built(kind: type[T], plain: Any) -> T:
    """The instance of a dataclass that these plain values describe. Raises FormatError where they do not."""
    checked(plain, of_dataclass(kind), kind.__name__.strip("_"))
    return kind(**plain)


def checked(value: T, shape: Shape, where: str) -> T:
    """The value, where it has this shape. Raises FormatError where it has not."""
    if problem := misfit(value, shape, where=where):
        raise FormatError(problem)
    return value


def of_dataclass(kind: type, number: Shape = float) -> dict[str, Shape]:
    """The shape of a dataclass as plain values: enums are integers, times are text. number: the shape of a float."""
    return {name: _of_type(hint, number) for name, hint in get_type_hints(kind).items()}


def _of_type(hint: Any, number: Shape) -> Shape:
    kinds = get_args(hint)
    match get_origin(hint):
        case origin if origin in (UnionType, Union):
            shapes = [_of_type(kind, number) for kind in kinds]
            return tuple(one for shape in shapes for one in (shape if isinstance(shape, tuple) else (shape,)))
        case origin if isinstance(origin, type):
            if issubclass(origin, dict):
                return {ANY: _of_type(kinds[1], number)}
            return [_of_type(kinds[0], number)] if origin is list else list
    if hint is NoneType:
        return None
    if is_dataclass(hint):
        return of_dataclass(hint, number)  # type: ignore[arg-type]
    if issubclass(hint, datetime):
        return Moment()
    if issubclass(hint, int) and hint is not bool:
        return int
    return number if hint is float else hint


def _is(value: Any, kind: Any) -> bool:
    if isinstance(kind, Kind):
        return kind.fits(value)
    if kind is None or value is None:
        return value is kind
    return type(value) is kind or (kind is float and type(value) is int)


def _told(value: Any, kinds: Any, where: str) -> str:
    words = [_word(kind) for kind in (kinds if isinstance(kinds, tuple) else (kinds,))]
    return f"{where or 'it'} is {_spelled(value)}; expected {' or '.join(words)}"


def _word(kind: Any) -> str:
    if isinstance(kind, Kind):
        return kind.expected
    return _WORDS.get(type(kind) if isinstance(kind, dict | list) else kind, "null")


def _spelled(value: Any) -> str:
    if isinstance(value, dict | list):
        return _WORDS[type(value)]
    text = repr(value) if isinstance(value, str) else str(value).lower().replace("none", "null")
    return text if len(text) <= 40 else f"{text[:37]}..."

"""Checks that a schema makes of its own values once everything is composed, and how values are told."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from inspect import get_annotations
from typing import Any, TypeVar

from esper.checks import did_you_mean
from esper.errors import ConfigError

T = TypeVar("T")


def all_required(schema: type[T]) -> type[T]:
    """Decorator: a dataclass of the fields that it inherits, none with a default, as values live in conf/."""
    inherited = {kept.name: kept.type for kept in fields(schema)}  # type: ignore[arg-type]
    for name in inherited:
        setattr(schema, name, field())
    schema.__annotations__ = inherited | get_annotations(schema)
    return dataclass(kw_only=True)(schema)


def require(ok: bool, key: str, value: Any, expected: str) -> None:
    """Raise ConfigError naming the dotted key, its value and what was expected, unless `ok`."""
    if not ok:
        raise ConfigError(f"{key}={spelled(value)}: expected {expected}")


def in_range(key: str, value: float, low: float, high: float = math.inf) -> None:
    """Both ends belong to the range; NaN is never in it, and neither is infinity."""
    span = f"{low} or more" if high == math.inf else f"{low} to {high}"
    require(math.isfinite(value) and low <= value <= high, key, value, span)


def positive(key: str, value: float, high: float = math.inf) -> None:
    """A finite number above zero."""
    bound = "" if high == math.inf else f", at most {high}"
    require(math.isfinite(value) and 0 < value <= high, key, value, f"a number above 0{bound}")


def one_of(key: str, value: str, options: Iterable[str]) -> None:
    """A name out of a fixed list; the error names the nearest."""
    known = list(options)
    if value not in known:
        raise ConfigError(f"{key}={value}: not known{did_you_mean(value, known)}\n  {key} may be: {', '.join(known)}")


def distinct(key: str, values: Sequence[str]) -> None:
    """At least one name, none twice."""
    require(len(values) > 0, key, values, "at least one name")
    require(len(set(values)) == len(values), key, values, "each name once")


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted key."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def spelled(value: Any) -> str:
    """A value as one would type it on the command line, cut to a readable length."""
    if value is None or isinstance(value, bool):
        text = str(value).lower().replace("none", "null")
    elif isinstance(value, list):
        text = "[" + ",".join(spelled(item) for item in value) + "]"
    else:
        text = " ".join(str(value).split())
    return text if len(text) <= 60 else text[:57] + "..."

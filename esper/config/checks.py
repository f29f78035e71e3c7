"""Checks of lists of names that a schema makes, and a configuration as dotted keys."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from inspect import get_annotations
from typing import Any, TypeVar

from esper.checks import require

T = TypeVar("T")


def all_required(schema: type[T]) -> type[T]:
    """Decorator: a dataclass of the fields that it inherits, none with a default, as values live in conf/."""
    inherited = {kept.name: kept.type for kept in fields(schema)}  # type: ignore[arg-type]
    for name in inherited:
        setattr(schema, name, field())
    schema.__annotations__ = inherited | get_annotations(schema)
    return dataclass(kw_only=True)(schema)


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

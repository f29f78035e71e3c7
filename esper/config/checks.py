"""Checks of lists of names that a schema makes, and a configuration as dotted keys."""

from collections.abc import Sequence
from typing import Any

from esper.checks import require


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

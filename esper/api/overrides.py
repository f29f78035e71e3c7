"""Overrides of the command line, out of Python's keywords."""

import re
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral, Real
from os import PathLike, fspath
from typing import Any

from esper.errors import ConfigError

_PLAIN = re.compile(r"[A-Za-z_/][\w./@-]*")  # what Hydra reads as text as it stands, but for
_WORDS = ("true", "false", "null", "nan", "inf")


def as_overrides(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """`epochs=10, policy={"patience": 3}` as `epochs=10`, `policy.patience=3`.

    Raises: ConfigError on a value that no key of a configuration can have.
    """
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from as_overrides(value, f"{key}.")
        else:
            yield f"{key}={_written(key, value)}"


def _written(key: str, value: Any) -> str:
    """A value as Hydra reads it from a command line."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case Integral():
            return str(int(value))
        case Real():
            return repr(float(value))
        case str():
            return value if _PLAIN.fullmatch(value) and value.lower() not in _WORDS else _quoted(value)
        case PathLike():
            return _quoted(str(fspath(value)))
        case Sequence():
            return f"[{','.join(_written(key, item) for item in value)}]"
    raise ConfigError(f"{key}: expected text, a number, a list or a dict of them, and got {type(value).__name__}")


def _quoted(value: str) -> str:
    escaped = re.sub(r"(\\*)(\"|$)", lambda found: 2 * found[1] + ("\\" if found[2] else "") + found[2], value)
    return f'"{escaped}"'

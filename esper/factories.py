"""Functions of the user's own: named in a configuration as "package.module:function"."""

import re
from importlib import import_module
from inspect import signature
from traceback import extract_tb
from typing import Any

from esper.checks import require
from esper.errors import ConfigError, EsperError, first_line


def check_factory(key: str, name: object) -> None:
    """Raise ConfigError unless it could name a function. key: that it is the value of."""
    named = isinstance(name, str) and re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name) is not None
    require(named, key, name, "package.module:function")


def call_factory(key: str, name: str, **given: Any) -> Any:
    """What the user's function gives. Raises ConfigError, in a line, for whatever goes wrong in there."""
    module_name, _, function_name = name.partition(":")
    try:
        factory = getattr(import_module(module_name), function_name)
    except Exception as error:
        raise ConfigError(f"{key}={name}: {first_line(error)}; it is looked up from where the run starts") from None
    try:
        signature(factory).bind(**given)
    except (TypeError, ValueError) as error:  # it takes others, or is no function of Python's
        with_what = " and ".join(given) or "no arguments"
        raise ConfigError(f"{key}={name}: is called with {with_what} ({first_line(error)})") from None
    try:
        return factory(**given)
    except EsperError as error:  # says itself what is wrong
        raise ConfigError(f"{key}={name}: {error}") from None
    except Exception as error:
        place = "".join(f", line {frame.lineno}" for frame in extract_tb(error.__traceback__)[1:2])
        raise ConfigError(f"{key}={name} failed{place}: {type(error).__name__}: {first_line(error)}") from None

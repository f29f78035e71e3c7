"""Code of the user's own: functions named in a configuration as "package.module:function", and what fails in it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from inspect import signature
from os.path import dirname, relpath
from sysconfig import get_path
from traceback import FrameSummary, extract_tb
from typing import Any

from esper.checks import require
from esper.errors import ConfigError, EsperError, first_line, of_machine

_HERE = dirname(__file__)
_INSTALLED = (get_path("stdlib"), get_path("purelib"), get_path("platlib"))


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
    with own_code(f"{key}={name}"):
        try:
            return factory(**given)
        except EsperError as error:  # says itself what is wrong
            raise ConfigError(f"{key}={name}: {error}") from None


@contextmanager
def own_code(what: str, error: type[EsperError] = ConfigError) -> Iterator[None]:
    """Inside, whatever a user's own code raises becomes an error of one line: what failed, where, and how.

    Raises: `error`, or the EsperError that was raised.
    """
    try:
        yield
    except (EsperError, KeyboardInterrupt):
        raise
    except BaseException as failure:  # SystemExit, too
        raise error(f"{what} failed{_line(failure)}: {type(failure).__name__}: {first_line(failure)}") from None


def pass_on_stop(failure: BaseException) -> None:
    """Raise a SystemExit that no user's own code raised: the handler of a signal, say, ends the program with it."""
    if isinstance(failure, SystemExit):
        frames = [frame for frame in extract_tb(failure.__traceback__) if "_sitebuiltins" not in frame.filename]
        if not _own([frame for frame in frames[-1:] if not frame.filename.startswith(_HERE)]):
            raise failure


def as_own_failure(failure: BaseException) -> Exception:
    """What a user's own code raised, wherever it was called from, as an error of one line; any other as it is.

    Raises: SystemExit where another had that raised; see `pass_on_stop`.
    """
    pass_on_stop(failure)
    if isinstance(failure, MemoryError):
        return of_machine(failure)
    if isinstance(failure, EsperError) or not _own(_reached(failure)):
        return failure if isinstance(failure, Exception) else EsperError(f"{type(failure).__name__}: {failure}")
    return EsperError(f"your code failed{_line(failure)}: {type(failure).__name__}: {first_line(failure)}")


def _line(failure: BaseException) -> str:
    """The last line that was reached of what is neither esper's nor installed, in words."""
    if isinstance(failure, SyntaxError) and failure.filename:  # no line of it was reached
        return f" in {relpath(failure.filename)}, line {failure.lineno}"
    reached = _reached(failure)
    return "".join(f" in {relpath(frame.filename)}, line {frame.lineno}" for frame in (_own(reached) or reached)[-1:])


def _reached(failure: BaseException) -> list[FrameSummary]:
    """What is not esper's, outermost first."""
    return [frame for frame in extract_tb(failure.__traceback__) if not frame.filename.startswith((_HERE, "<"))]


def _own(reached: list[FrameSummary]) -> list[FrameSummary]:
    return [frame for frame in reached if not frame.filename.startswith(_INSTALLED)]

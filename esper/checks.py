"""Checks of values that every room makes alike; the nearest name to one that is not known."""

import difflib
import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

from esper.errors import ConfigError

NEAR = 0.6  # share of letters that two names must have in common, in the same order


QUOTED = "'{}'"


def did_you_mean(word: str, known: Iterable[str], form: str = "{}") -> str:
    """ "; did you mean X?" for the known word nearest to one that is not known, or nothing where none is near.

    Args: form: of the known word, as in "policy.{}"; QUOTED where the message quotes the other.
    """
    by_spelling = {name.lower(): name for name in known if name != word}
    nearest = difflib.get_close_matches(word.lower(), by_spelling, n=1, cutoff=NEAR)
    return f"; did you mean {form.format(by_spelling[nearest[0]])}?" if nearest else ""


def require(ok: bool, key: str, value: Any, expected: str) -> None:
    """Raise ConfigError naming the dotted key, its value and what was expected, unless `ok`."""
    if not ok:
        raise ConfigError(f"{key}={spelled(value)}: expected {expected}")


def is_whole(value: Any) -> bool:
    """Whether it is an integer, numpy's included; a truth value is none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a number, and neither NaN, infinity nor beyond all floats; a truth value is no number."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def whole(key: str, value: Any, low: int) -> None:
    """An integer from `low` on."""
    require(is_whole(value) and value >= low, key, value, f"a whole number, {low} or more")


def in_range(key: str, value: Any, low: float, high: float = math.inf) -> None:
    """Both ends belong to the range; NaN is never in it, and neither is infinity."""
    span = f"{low} or more" if high == math.inf else f"{low} to {high}"
    require(is_number(value) and low <= value <= high, key, value, span)


def positive(key: str, value: Any, high: float = math.inf) -> None:
    """A finite number above zero."""
    bound = "" if high == math.inf else f", at most {high}"
    require(is_number(value) and 0 < value <= high, key, value, f"a number above 0{bound}")


def one_of(key: str, value: Any, options: Iterable[str]) -> None:
    """A name out of a fixed list; the error names the nearest."""
    known = list(options)
    if value not in known:
        said = spelled(value)
        raise ConfigError(f"{key}={said}: not known{did_you_mean(said, known)}\n  {key} may be: {', '.join(known)}")


def spelled(value: Any) -> str:
    """A value as one would type it on the command line, cut to a readable length."""
    if value is None or isinstance(value, bool):
        text = str(value).lower().replace("none", "null")
    elif isinstance(value, list | tuple):
        text = "[" + ",".join(spelled(item) for item in value) + "]"
    else:
        text = " ".join(str(value).split())
    return text if len(text) <= 60 else text[:57] + "..."

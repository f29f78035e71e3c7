"""Conditions, as `--filter` and `--require` take them: status=finished, test_accuracy>85, policy=ppo,iql, age<2d."""

import fnmatch
import math
import operator
import re
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

from esper.errors import ConfigError
from esper.study.measure import is_score

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_CONDITION = re.compile(r"\s*([\w.]+)\s*(>=|<=|!=|>|<|=)\s*(.*?)\s*")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_EXPECTED = "KEY=VALUE, !=, <, <=, > or >=, such as 'test_accuracy>85'"


@dataclass(frozen=True, slots=True)
class Condition:
    """KEY OP NUMBER or KEY OP TEXT.

    Of `=` and `!=` the value may be a list ("a,b") of numbers and patterns ("digits*"). A score is in percent: a
    number up to 1 without a "%" is read as a share. An age may be "30m", "12h" or "7d".
    """

    key: str
    comparison: str
    value: str
    is_of_text: bool = False

    @classmethod
    def parse(cls, text: str, option: str, texts: Container[str] = ()) -> "Condition":
        """Raises ConfigError, naming the option, on what is no condition. texts: keys that hold text, never numbers."""
        parts = _CONDITION.fullmatch(text)
        if parts is None:
            raise ConfigError(f"{option} {text}: expected {_EXPECTED}")
        condition = cls(parts[1], parts[2], parts[3], parts[1] in texts)
        if condition.is_ordering and not condition.is_of_text and condition.number is None:
            raise ConfigError(f"{option} {text}: expected a number after {condition.comparison}")
        return condition

    @property
    def is_ordering(self) -> bool:
        """Whether it asks for more or less, and not for the same."""
        return self.comparison in _COMPARISONS

    @property
    def wanted(self) -> list[str]:
        """The values of a list; of an ordering, the one value."""
        return [self.value] if self.is_ordering else self.value.split(",")

    @property
    def number(self) -> float | None:
        """The value as a number, in the unit in which the key is stored."""
        return self.as_number(self.value)

    @property
    def note(self) -> str:
        """How a score was read, where that needs saying: "0.7 is read as 70%"."""
        return ", ".join(f"{text} is read as {self.as_number(text):g}%" for text in self.wanted if self._is_share(text))

    def as_number(self, text: str) -> float | None:
        """One of the values as a number; of an age in seconds, of a score in percent; None where it is none."""
        if self.key == "age" and (parts := re.fullmatch(r"([\d.]+)([smhdw])", text)):
            return _number(parts[1], _SECONDS[parts[2]])
        if self._is_score and text.endswith("%"):
            return _number(text[:-1])
        return _number(text, 100.0 if self._is_share(text) else 1.0)

    def holds(self, found: Any) -> bool:
        """Whether it does, of this value of the key; what is not known is equal to nothing."""
        if self.is_ordering:
            compare = _COMPARISONS[self.comparison]
            if self.is_of_text:
                return isinstance(found, str) and compare(found, self.value)
            return isinstance(found, int | float) and compare(found, self.number)
        return any(self._is_like(found, wanted) for wanted in self.wanted) == (self.comparison == "=")

    @property
    def _is_score(self) -> bool:
        return is_score(self.key)

    def _is_share(self, text: str) -> bool:
        value = _number(text)
        return self._is_score and value is not None and 0 < value <= 1

    def _is_like(self, found: Any, wanted: str) -> bool:
        if found is None or isinstance(found, bool):
            return wanted.lower() == str(found).lower().replace("none", "null")
        if isinstance(found, int | float):
            return self.as_number(wanted) == found or wanted == str(found)
        return fnmatch.fnmatchcase(str(found), wanted)


def _number(text: str, unit: float = 1.0) -> float | None:
    try:
        value = float(text) * unit
    except ValueError:
        return None
    return value if math.isfinite(value) else None

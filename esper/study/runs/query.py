"""Which runs, in which order: conditions such as status=finished, test_accuracy>85, optimizer.momentum<0.9, age<2d."""

import fnmatch
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from esper.checks import did_you_mean
from esper.config.checks import flat
from esper.errors import ConfigError, FormatError, RunError
from esper.files import read_yaml
from esper.files.records import CONFIG_FILE
from esper.study.runs.rows import COLUMNS, STATUSES, Row

DERIVED = {"age": "seconds since it first began; a condition may say 30m, 12h, 7d", "path": "its folder"}
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_CONDITION = re.compile(r"\s*([\w.]+)\s*(>=|<=|!=|>|<|=)\s*(.*?)\s*")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_TEXTS = {name for name, (kind, _) in COLUMNS.items() if kind.startswith("TEXT")}


@dataclass(frozen=True, slots=True)
class Condition:
    """`key comparison value`; of `=` and `!=` the value may be a list ("a,b") of patterns ("digits*")."""

    key: str
    comparison: str
    value: str

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Raises ConfigError on what is no condition."""
        parts = _CONDITION.fullmatch(text)
        if parts is None:
            raise ConfigError(f"--filter {text}: expected KEY=VALUE, !=, <, <=, > or >=, such as 'test_accuracy>85'")
        condition = cls(*parts.groups())
        if condition.comparison in _COMPARISONS and condition.key not in _TEXTS and condition.number is None:
            raise ConfigError(f"--filter {text}: expected a number after {condition.comparison}")
        for wanted in condition.value.split(",") if condition.key == "status" else ():
            if condition.comparison not in _COMPARISONS and not fnmatch.filter(STATUSES, wanted):
                hint = did_you_mean(wanted, STATUSES)
                raise ConfigError(f"--filter {text}: no run is {wanted}{hint}\n  a status is {', '.join(STATUSES)}")
        return condition

    @property
    def number(self) -> float | None:
        """The value as a number; of an age, in seconds; of an accuracy, in percent."""
        if self.key == "age" and (parts := re.fullmatch(r"([\d.]+)([smhdw])", self.value)):
            return _number(parts[1], _SECONDS[parts[2]])
        return _number(self.value, 100.0 if self.is_share else 1.0)

    @property
    def is_share(self) -> bool:
        """Whether the value is an accuracy as a share of 1, where runs hold percent."""
        value = _number(self.value)
        return self.key.endswith("accuracy") and value is not None and 0 < value <= 1

    def holds(self, found: Any) -> bool:
        """Whether a run for which the key has this value is meant; what is not known is equal to nothing."""
        if self.comparison in _COMPARISONS:
            compare = _COMPARISONS[self.comparison]
            if isinstance(found, int | float) and self.number is not None:
                return compare(found, self.number)
            return isinstance(found, str) and self.key in _TEXTS and compare(found, self.value)
        is_equal = any(_is_like(found, wanted) for wanted in self.value.split(","))
        return is_equal == (self.comparison == "=")


class Table:
    """Rows that can also be asked for what their configuration holds (`optimizer.learning_rate`, `batch_size`)."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)
        self._configs: dict[str, dict[str, Any]] = {}

    def filter(self, conditions: Iterable[Condition]) -> None:
        """Keep the rows for which all conditions hold. Raises RunError on a key that no run has."""
        # What is in the rows goes first: few configurations are left to read then.
        for condition in sorted(conditions, key=lambda condition: not _is_column(condition.key)):
            self._check(condition.key)
            self.rows = [row for row in self.rows if condition.holds(self.value(row, condition.key))]

    def sort(self, key: str | None, reverse: bool = False) -> None:
        """Newest first; by a key: the largest number or the first word first, what has none last."""
        self.rows.sort(key=lambda row: row["started_at"] or "", reverse=True)
        if key:
            self._check(key)
            known = [(value, row) for row in self.rows if (value := self.value(row, key)) is not None]
            is_numbers = all(isinstance(value, int | float) for value, _ in known)
            known.sort(key=lambda pair: pair[0] if is_numbers else str(pair[0]), reverse=is_numbers)
            unknown = [row for row in self.rows if self.value(row, key) is None]
            self.rows = [row for _, row in (known[::-1] if reverse else known)] + unknown
        elif reverse:
            self.rows.reverse()

    def value(self, row: Row, key: str) -> Any:
        """What this run has under this key, or None."""
        if key == "age":
            return _age(row["started_at"])
        return row[key] if _is_column(key) else self._config(row).get(key)

    def _check(self, key: str) -> None:
        if _is_column(key) or not self.rows or any(key in self._config(row) for row in self.rows):
            return
        known = [*COLUMNS, *DERIVED, *(key for row in self.rows for key in self._config(row))]
        raise RunError(
            f"{key}: no run has that{did_you_mean(key, dict.fromkeys(known))}\n"
            "  a key is a column (esper runs --help) or one of the configuration, such as optimizer.learning_rate"
        )

    def _config(self, row: Row) -> dict[str, Any]:
        if row["run"] not in self._configs:
            self._configs[row["run"]] = flat(read_config_file(Path(row["path"])))
        return self._configs[row["run"]]


def read_config_file(folder: Path) -> dict[str, Any]:
    """A run's configuration as plain values; empty where there is none that can be read."""
    try:
        config = read_yaml(folder / CONFIG_FILE)
    except (OSError, FormatError):
        return {}
    return config if isinstance(config, dict) else {}


def _is_column(key: str) -> bool:
    return key in COLUMNS or key in DERIVED


def _age(started_at: str | None) -> float | None:
    if not started_at:
        return None
    return (datetime.now(UTC) - datetime.fromisoformat(started_at)).total_seconds()


def _number(text: str, unit: float = 1.0) -> float | None:
    try:
        return float(text) * unit
    except ValueError:
        return None


def _is_like(found: Any, wanted: str) -> bool:
    if found is None or isinstance(found, bool):
        return wanted.lower() == str(found).lower().replace("none", "null")
    if isinstance(found, int | float):
        return _number(wanted) == found
    return fnmatch.fnmatchcase(str(found), wanted)

"""Which runs, in which order: conditions on columns and on what configurations hold (optimizer.momentum<0.9)."""

import fnmatch
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from esper.checks import did_you_mean
from esper.config.checks import flat
from esper.errors import ConfigError, FormatError, RunError
from esper.files import read_yaml
from esper.files.records import CONFIG_FILE
from esper.study.conditions import Condition
from esper.study.runs.rows import COLUMNS, STATUSES, Row

DERIVED = {"age": "seconds since it first began; a condition may say 30m, 12h, 7d", "path": "its folder"}
_TEXTS = {name for name, (kind, _) in COLUMNS.items() if kind.startswith("TEXT")}


def parse_filter(text: str) -> Condition:
    """A condition on runs. Raises ConfigError on what is none, or asks for a status that no run can have."""
    condition = Condition.parse(text, "--filter", _TEXTS)
    for wanted in condition.wanted if condition.key == "status" and not condition.is_ordering else ():
        if not fnmatch.filter(STATUSES, wanted):
            hint = did_you_mean(wanted, STATUSES)
            raise ConfigError(f"--filter {text}: no run is {wanted}{hint}\n  a status is {', '.join(STATUSES)}")
    return condition


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

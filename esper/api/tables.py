"""What a run has written down, as pandas tables."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.errors import EsperError, RunError
from esper.files import read_jsonl
from esper.files.records import EVENTS_FILE, METRICS_FILE

if TYPE_CHECKING:
    import pandas


def metrics_table(folder: Path) -> "pandas.DataFrame":
    """One row a member and epoch; see `RunHandle.metrics`."""
    rows = []
    for record in _records(folder / METRICS_FILE):
        of_epoch = {key: value for key, value in record.items() if key not in ("schema", "members")}
        rows += [{"epoch": record["epoch"], **member, **of_epoch} for member in record["members"]]
    return _table(rows)


def events_table(folder: Path) -> "pandas.DataFrame":
    """One row an event; see `RunHandle.events`."""
    return _table(
        {key: value for key, value in record.items() if key != "schema"} for record in _records(folder / EVENTS_FILE)
    )


def _records(path: Path) -> Iterable[dict[str, Any]]:
    if not path.exists():
        raise RunError(f"{path}: the run writes no such file; its lines are switched on by telemetry.jsonl=true")
    return (line.record for line in read_jsonl(path) if line.record is not None)


def _table(rows: Iterable[dict[str, Any]]) -> "pandas.DataFrame":
    try:
        import pandas
    except ImportError as error:
        raise EsperError("pandas, which makes the table, is not installed\n  pip install 'esper[pandas]'") from error
    return pandas.json_normalize(list(rows))

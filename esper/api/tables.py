"""What a run has written down, as pandas tables."""

from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.errors import EsperError, RunError, of_machine
from esper.files import read_jsonl
from esper.files.records import EPOCH, EPOCH_NEEDS, EVENT, EVENT_NEEDS, EVENTS_FILE, METRICS_FILE
from esper.files.shapes import Shape

if TYPE_CHECKING:
    import pandas


def metrics_table(folder: Path) -> "pandas.DataFrame":
    """One row a member and epoch; see `RunHandle.metrics`."""
    rows = []
    for record in _records(folder / METRICS_FILE, EPOCH, EPOCH_NEEDS):
        of_epoch = {key: value for key, value in record.items() if key not in ("schema", "members")}
        rows += [{"epoch": record["epoch"], **member, **of_epoch} for member in record["members"]]
    return _table(rows)


def events_table(folder: Path) -> "pandas.DataFrame":
    """One row an event; see `RunHandle.events`."""
    records = _records(folder / EVENTS_FILE, EVENT, EVENT_NEEDS)
    return _table({key: value for key, value in record.items() if key != "schema"} for record in records)


def _records(path: Path, shape: Mapping[str, Shape], required: Container[str]) -> Iterable[dict[str, Any]]:
    """What the lines hold; one that is damaged is left out."""
    if not path.exists():
        raise RunError(f"{path}: the run writes no such file; its lines are switched on by telemetry.jsonl=true")
    try:
        yield from (line.record for line in read_jsonl(path, shape, required) if line.record is not None)
    except OSError as error:
        raise of_machine(error) from error


def _table(rows: Iterable[dict[str, Any]]) -> "pandas.DataFrame":
    try:
        import pandas
    except ImportError as error:
        raise EsperError("pandas, which makes the table, is not installed\n  pip install 'esper[pandas]'") from error
    return pandas.json_normalize(list(rows))

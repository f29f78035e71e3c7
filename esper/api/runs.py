"""`esper.open_run` and `esper.runs`: runs that are there."""

from collections.abc import Sequence
from pathlib import Path

from esper.api.handle import RunHandle
from esper.checks import whole
from esper.errors import RunError
from esper.study.runs.find import find_run
from esper.study.runs.folders import ROOT
from esper.study.runs.index import read_index
from esper.study.runs.query import Table, parse_filter


def open_run(folder: str | Path, root: str | Path = ROOT) -> RunHandle:
    """A run by its folder, or by any part of its path below `root` that no other run has.

    Raises: RunError where there is none, or more than one.
    """
    if not isinstance(folder, str | Path):
        raise RunError(f"open_run: expected the folder of a run, such as {ROOT}/NAME/ID, and got {folder!r}")
    return RunHandle(find_run(str(folder), root))


def runs(
    filter: str | Sequence[str] = (),
    sort: str | None = None,
    reverse: bool = False,
    limit: int | None = None,
    root: str | Path = ROOT,
) -> list[RunHandle]:
    """The runs below a folder, newest first: `esper.runs(filter=["policy=ppo,iql", "test_accuracy>85"])`.

    Args:
        filter: conditions that all hold, as `esper runs --filter` takes them: "status=finished", "age<2d",
            "optimizer.learning_rate<=0.01".
        sort: by this key, highest figure or first word first; reverse: the other way round.
        limit: at most so many.

    Raises: ConfigError on what is no condition, RunError where there is no such folder, or no run has such a key.
    """
    conditions = [parse_filter(text) for text in ([filter] if isinstance(filter, str) else filter)]
    if limit is not None:
        whole("limit", limit, 1)
    table = Table(read_index(Path(root)).rows)
    table.filter(conditions)
    table.sort(sort, reverse)
    return [RunHandle(Path(row["path"])) for row in table.rows[:limit]]

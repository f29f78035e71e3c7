"""`esper.open_run` and `esper.runs`: runs that are there."""

from collections.abc import Sequence
from pathlib import Path

from esper.api.handle import RunHandle
from esper.checks import require, whole
from esper.errors import RunError, of_machine
from esper.study.runs.find import find_run
from esper.study.runs.folders import ROOT
from esper.study.runs.index import read_index
from esper.study.runs.query import Table, parse_filter


def open_run(folder: str | Path, root: str | Path = ROOT) -> RunHandle:
    """A run by its folder, or by any part of its path below `root` that no other run has.

    Raises: RunError where there is none, or more than one.
    """
    if not isinstance(folder, str | Path) or "\0" in str(folder):
        raise RunError(f"open_run: expected the folder of a run, such as {ROOT}/NAME/ID, and got {folder!r}")
    try:
        return RunHandle(find_run(str(folder), root))
    except OSError as error:  # of a name that is too long
        raise of_machine(error) from error


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
    texts = [filter] if isinstance(filter, str) else filter
    is_text = isinstance(texts, Sequence) and all(isinstance(text, str) for text in texts)
    require(is_text, "filter", filter, "conditions, such as 'status=finished', or a list of them")
    require(sort is None or isinstance(sort, str), "sort", sort, "a key, such as 'test_accuracy'")
    require(isinstance(root, str | Path), "root", root, "a folder")
    conditions = [parse_filter(text) for text in texts]
    if limit is not None:
        whole("limit", limit, 1)
    table = Table(read_index(Path(root)).rows)
    table.filter(conditions)
    table.sort(sort, reverse)
    return [RunHandle(Path(row["path"])) for row in table.rows[:limit]]

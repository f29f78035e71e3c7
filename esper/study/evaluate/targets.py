"""Targets of an evaluation: which checkpoints RUN@latest, RUN@best:METRIC, RUN@epoch-12 or SWEEP name."""

import re
from dataclasses import dataclass
from pathlib import Path

from esper.errors import RunError
from esper.printing import say
from esper.study.runs.find import find_folders, find_run
from esper.study.runs.folders import is_attempt
from esper.study.runs.index import settled_row

_WHICH = re.compile(r"(?P<run>.+)@(?:latest|best:(?P<metric>\w+)|epoch-(?P<epoch>\d{1,9}))")


@dataclass(frozen=True, slots=True)
class Target:
    """A run's folder, and which of its checkpoints: of an epoch, the best by a metric, or else the latest."""

    run: Path
    epoch: int | None = None
    metric: str | None = None


def find_targets(text: str, root: Path) -> list[Target]:
    """What RUN, RUN@latest, RUN@best:METRIC or RUN@epoch-N means; nothing heavy is loaded for it.

    RUN: as `find_run` takes it. A folder of runs, or a part of one sweep's path below `root`, stands for every finished
    run in it, in the order of their beginning. Raises RunError where there is no such run.
    """
    which = _WHICH.fullmatch(text)
    if which is None and "@" in text and not Path(text).is_dir():
        raise RunError(f"{text}: cannot be read\n  expected RUN@latest, RUN@best:METRIC or RUN@epoch-12")
    if which is None:
        return [Target(run) for run in _runs(text, root)]
    epoch = None if which["epoch"] is None else int(which["epoch"])
    return [Target(run, epoch, which["metric"]) for run in _runs(which["run"], root)]


def _runs(text: str, root: Path) -> list[Path]:
    folders = [folder for folder in find_folders(text, root) if not is_attempt(str(folder))]
    if len(folders) < 2:
        return [find_run(str(folders[0]) if folders else text, root)]
    rows = sorted(map(settled_row, folders), key=lambda row: (str(row["started_at"]), row["path"]))
    finished = [Path(row["path"]) for row in rows if row["status"] == "finished"]
    if not finished:
        raise RunError(f"{text}: none of its {len(rows)} runs has finished\n  esper runs says how far they are")
    for row in rows:
        if row["status"] != "finished":
            say(f"left out: {row['path']}: {row['status']}", is_error=True)
    return finished

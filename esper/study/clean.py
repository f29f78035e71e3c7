"""What may go: runs that came to nothing, attempts that a later one replaced, and what killed processes left."""

import contextlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from esper.errors import RunError
from esper.files.records import CONFIG_FILE, JOB_LOG, LOCK_FILE, RUN_FILE, SWEEP_FILE, SWEEP_LOCK
from esper.study.folders import is_attempt, is_held, is_locked, place, walk
from esper.study.index import read_index, settled_row
from esper.study.rows import Row

_LEFT_BY_KILLED = re.compile(r"\..*\.tmp|\.report\.html\.\d+")
_WENT_WRONG = ("failed", "interrupted", "killed", "unreadable")


@dataclass(frozen=True, slots=True)
class Clutter:
    """A folder that may go as a whole, or (`files`) some files in it; and why."""

    folder: Path
    why: str
    files: tuple[Path, ...] = ()

    @property
    def size(self) -> int:
        """Bytes that removing it frees."""
        files = self.files or [Path(place, name) for place, _, names in os.walk(self.folder) for name in names]
        return sum(file.lstat().st_size for file in files if file.exists())

    def check(self) -> None:
        """Raises RunError where a process has it, so that it would stay."""
        if is_held(self.folder):
            raise RunError(
                f"{self.folder}: it is in use by a process and will not go\n  wait until it ends, or stop it"
            )

    def remove(self) -> None:
        """Remove it. Raises RunError where a process has the run by now, or the folder cannot be removed."""
        from esper.checkpoint import RunLock  # here, since it loads torch

        try:
            with RunLock(self.folder):  # nobody can begin in a folder that goes
                if is_locked(self.folder / JOB_LOG):
                    raise RunError(f"{self.folder}: its sweep is at it\n  wait until it ends, or stop it")
                for file in self.files:
                    file.unlink(missing_ok=True)
                if not self.files:
                    _empty(self.folder)
            if not self.files:
                self.folder.rmdir()
                _drop_sweep(self.folder.parent)
                with contextlib.suppress(OSError):  # other runs are in it
                    self.folder.parent.rmdir()
        except OSError as error:
            raise RunError(f"{self.folder} cannot be removed: {error.strerror or error}") from error


def find_clutter(root: Path, finished: bool = False) -> list[Clutter]:
    """All that may go below `root`, by path. Finished runs are not among it, unless `finished`: attempts replaced."""
    found = walk(root)
    holders = {parent for run in (*found.runs, *found.jobs) for parent in Path(place(root, run)).parents}
    attempts = {path for sweep in found.sweeps for path in _attempts(Path(place(root, sweep)))}
    clutter = [_superseded(path) for path in attempts - holders if finished or not _is_finished(path)]
    for row in read_index(root).rows:
        folder = Path(row["path"])
        if folder in attempts or is_held(folder):
            continue
        may_go = is_lost(folder, row) and folder not in holders
        clutter += [_came_to_nothing(folder, row)] if may_go else _temporaries(folder)
    for run in found.unborn:
        folder = Path(place(root, run))
        if not is_held(folder) and all(_is_of_the_start(file) for file in folder.iterdir()):
            clutter.append(Clutter(folder, "never began"))
    return sorted(clutter, key=lambda clutter: clutter.folder)


def as_clutter(folder: Path, finished: bool = False) -> Clutter:
    """A run that is to go because it was named. Raises RunError on one that finished, unless `finished`.

    One that other runs lie in stays as long as they do.
    """
    row = settled_row(folder)
    found = walk(folder)
    if within := [run for run in (*found.runs, *found.jobs) if run != "."]:
        raise RunError(f"{folder}: other runs lie in it, such as {min(within)}\n  remove those first")
    if row["status"] == "finished" and not finished:
        raise RunError(f"{folder}: this run has finished\n  to remove it all the same: --finished")
    return Clutter(folder, f"named, {row['status']}")


def is_lost(folder: Path, row: Row) -> bool:
    """Whether a run went wrong and has no checkpoint to go on from."""
    return row["status"] in _WENT_WRONG and not any(folder.glob("checkpoints/agent_epoch_*.json"))


def _came_to_nothing(folder: Path, row: Row) -> Clutter:
    return Clutter(folder, f"{row['status']}, and has no checkpoint to go on from")


def _drop_sweep(folder: Path) -> None:
    """What is left of a sweep without any job."""
    left = {file.name for file in folder.iterdir()}
    if SWEEP_FILE in left and left <= {SWEEP_FILE, SWEEP_LOCK} and not is_locked(folder / SWEEP_LOCK):
        for name in left:
            (folder / name).unlink(missing_ok=True)


def _superseded(folder: Path) -> Clutter:
    return Clutter(folder, "a later attempt replaced it" + (" (finished)" if _is_finished(folder) else ""))


def _attempts(sweep: Path) -> list[Path]:
    """Folders that a sweep has put aside, as JOB.1."""
    return [
        folder
        for folder in sweep.iterdir()
        if is_attempt(folder.name) and folder.is_dir() and not folder.is_symlink() and not is_held(folder)
    ]


def _is_finished(folder: Path) -> bool:
    return (folder / RUN_FILE).exists() and settled_row(folder)["status"] == "finished"


def _temporaries(folder: Path) -> list[Clutter]:
    files = tuple(
        file
        for place in (folder, folder / "checkpoints")
        if place.is_dir()
        for file in place.iterdir()
        if _LEFT_BY_KILLED.fullmatch(file.name)
    )
    return [Clutter(folder, f"{len(files)} half-written file{'s' * (len(files) > 1)}", files)] if files else []


def _is_of_the_start(file: Path) -> bool:
    return file.name in (LOCK_FILE, CONFIG_FILE) or bool(_LEFT_BY_KILLED.fullmatch(file.name))


def _empty(folder: Path) -> None:
    """Remove what is in a folder, run.json last: what a kill in between leaves is still known for what it is."""
    for entry in sorted(folder.iterdir(), key=lambda entry: (entry.name == LOCK_FILE, entry.name == RUN_FILE)):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)

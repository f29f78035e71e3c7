"""What may go: runs that came to nothing, attempts that a later one replaced, and what killed processes left."""

import contextlib
import errno
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from esper.checkpoint import RunLock
from esper.errors import RunError
from esper.files import written_for
from esper.files.marks import newest_checkpoint
from esper.files.records import JOB_FILE, JOB_LOG, LOCK_FILE, RUN_FILE, SWEEP_FILE, SWEEP_LOCK
from esper.study.belongings import contents, is_of_a_job, is_of_a_run, object_in
from esper.study.runs.folders import is_attempt, is_held, is_locked, place, walk
from esper.study.runs.index import read_index, settled_row
from esper.study.runs.rows import Row

_WENT_WRONG = ("failed", "interrupted", "killed", "unreadable")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Removable:
    """A run's folder of which all may go that the run has written, or half-written files alone; and why."""

    folder: Path
    why: str
    half_written: bool = False

    @property
    def files(self) -> list[Path]:
        """What goes, in this order."""
        own = contents(self.folder).own
        return [file for file in own if written_for(file.name)] if self.half_written else own

    @property
    def others(self) -> list[Path]:
        """What stays because no run has written it."""
        return [] if self.half_written else contents(self.folder).others

    @property
    def size(self) -> int:
        """Bytes that removing it frees."""
        return sum(file.lstat().st_size for file in self.files)

    def check(self) -> None:
        """Raises RunError where a process has it, so that it would stay."""
        if is_held(self.folder):
            raise RunError(
                f"{self.folder}: it is in use by a process and will not go\n  wait until it ends, or stop it"
            )

    def remove(self) -> None:
        """Remove its files one by one, and folders that are then empty.

        Raises RunError where a process has the run by now, or a file cannot be removed.
        """
        try:
            with _locked(self.folder):  # nobody can begin in a folder that goes
                if is_locked(self.folder / JOB_LOG):
                    raise RunError(f"{self.folder}: its sweep is at it\n  wait until it ends, or stop it")
                files = self.files
                for file in files:
                    file.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"{self.folder} cannot be removed: {error.strerror or error}") from error
        if not self.half_written:
            _drop_empty({folder for file in files for folder in file.parents if self.folder in folder.parents})
            _drop_empty({self.folder})
            _drop_sweep(self.folder.parent)
            _drop_empty({self.folder.parent})  # unless other runs are in it


def find_removable(root: Path, finished: bool = False) -> list[Removable]:
    """All that may go below `root`, by path. Finished runs are not among it, unless `finished`: attempts replaced."""
    found = walk(root)
    holders = {parent for run in (*found.runs, *found.jobs) for parent in Path(place(root, run)).parents}
    attempts = {path for sweep in found.sweeps for path in _attempts(Path(place(root, sweep)))}
    clutter = [_superseded(path) for path in attempts - holders if finished or not _is_finished(path)]
    for row in read_index(root).rows:
        folder = Path(row["path"])
        if folder in attempts or is_held(folder) or not is_known(folder):
            continue
        if is_lost(folder, row) and folder not in holders:
            clutter.append(Removable(folder, f"{row['status']}, and has no checkpoint to go on from"))
        else:
            clutter += _half_written(folder)
    for run in found.unborn:
        folder = Path(place(root, run))
        if not is_held(folder) and not contents(folder).others:
            clutter.append(Removable(folder, "never began"))
    return sorted(clutter, key=lambda clutter: clutter.folder)


def as_removable(folder: Path, finished: bool = False) -> Removable:
    """A run that is to go because it was named. Raises RunError on one that finished, unless `finished`.

    One that other runs lie in stays as long as they do, and what no run has written stays in any case.
    """
    if not is_known(folder):
        name = JOB_FILE if (folder / JOB_FILE).exists() and not (folder / RUN_FILE).exists() else RUN_FILE
        raise RunError(f"{folder}: its {name} is missing or not what a run writes, so nothing here is removed")
    row = settled_row(folder)
    found = walk(folder)
    if within := [run for run in (*found.runs, *found.jobs) if run != "."]:
        raise RunError(f"{folder}: other runs lie in it, such as {min(within)}\n  remove those first")
    if row["status"] == "finished" and not finished:
        raise RunError(f"{folder}: this run has finished\n  to remove it all the same: --finished")
    return Removable(folder, f"named, {row['status']}")


def is_known(folder: Path) -> bool:
    """Whether a run or a sweep's job has this folder, by what its run.json or job.json holds."""
    return is_of_a_run(object_in(folder / RUN_FILE)) or is_of_a_job(object_in(folder / JOB_FILE))


def is_lost(folder: Path, row: Row) -> bool:
    """Whether a run went wrong and has no checkpoint to go on from."""
    return row["status"] in _WENT_WRONG and newest_checkpoint(folder) is None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the run's lock; on a full disk a lock that cannot even be made is held by nobody."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(RunLock(folder))
        except RunError as error:
            is_full = isinstance(error.__cause__, OSError) and error.__cause__.errno in _NO_ROOM
            if not is_full or (folder / LOCK_FILE).exists():
                raise
        yield


def _drop_empty(folders: set[Path]) -> None:
    for folder in sorted(folders, reverse=True):  # those within first
        with contextlib.suppress(OSError):
            folder.rmdir()


def _drop_sweep(folder: Path) -> None:
    """What is left of a sweep without any job."""
    left = {file.name for file in folder.iterdir()}
    is_of_a_sweep = "jobs" in object_in(folder / SWEEP_FILE)
    if is_of_a_sweep and left <= {SWEEP_FILE, SWEEP_LOCK} and not is_locked(folder / SWEEP_LOCK):
        for name in left:
            (folder / name).unlink(missing_ok=True)


def _superseded(folder: Path) -> Removable:
    return Removable(folder, "a later attempt replaced it" + (" (finished)" if _is_finished(folder) else ""))


def _attempts(sweep: Path) -> list[Path]:
    """Folders that a sweep has put aside, as JOB.1."""
    return [
        folder
        for folder in sweep.iterdir()
        if is_attempt(folder.name)
        and folder.is_dir()
        and not folder.is_symlink()
        and not is_held(folder)
        and is_known(folder)
    ]


def _is_finished(folder: Path) -> bool:
    return (folder / RUN_FILE).exists() and settled_row(folder)["status"] == "finished"


def _half_written(folder: Path) -> list[Removable]:
    count = len(Removable(folder, "", half_written=True).files)
    why = f"{count} half-written file{'s' * (count > 1)}"
    return [Removable(folder, why, half_written=True)] if count else []

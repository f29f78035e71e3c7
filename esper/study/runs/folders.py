"""Where runs lie: every run folder below a root, and whether a process has one."""

import errno
import fcntl
import os
import re
from pathlib import Path
from typing import NamedTuple

from esper.errors import RunError
from esper.files import open_to_read
from esper.files.records import CHECKPOINTS, JOB_FILE, JOB_LOG, LOCK_FILE, RUN_FILE, SWEEP_FILE, TENSORBOARD, WANDB

ROOT = "outputs"
_OUT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_OF_A_RUN = (CHECKPOINTS, TENSORBOARD, WANDB)  # folders that a run has itself
_ATTEMPT = re.compile(r"[0-9a-f]{6,}\.[1-9][0-9]*")


class Stamp(NamedTuple):
    """What tells that a file was replaced: run.json is rewritten as a whole, under a fresh inode."""

    mtime_ns: int
    size: int
    inode: int

    @classmethod
    def of(cls, stat: os.stat_result) -> "Stamp":
        return cls(stat.st_mtime_ns, stat.st_size, stat.st_ino)


class Found(NamedTuple):
    """What a walk met. Paths are below its root, "." for the root itself."""

    runs: dict[str, Stamp]  # run folders
    jobs: dict[str, Stamp]  # folders of a sweep's jobs that have not become runs
    unborn: list[str]  # other folders that a run has claimed and not begun in
    sweeps: list[str]  # folders of sweeps
    unread: list[str]  # folders that could not be looked into, and why


def is_attempt(run: str) -> bool:
    """Whether a sweep has put this folder aside, as JOB.1, because another attempt was to take its place."""
    return bool(_ATTEMPT.fullmatch(run.rpartition("/")[2]))


def place(root: Path | str, run: str) -> str:
    """The folder of a run as this process sees it."""
    return f"{root}/{run}" if run != "." else str(root)


def walk(root: Path) -> Found:
    """Every run folder below `root` (itself included), wherever it lies. Links to folders are not followed.

    Raises RunError where there is no such folder.
    """
    if not root.is_dir():
        raise RunError(f"{root}: there is no such folder\n  expected the folder that runs are written to (--root)")
    found = Found({}, {}, [], [], [])
    pending = ["."]
    while pending:
        relative = pending.pop()
        folder = place(root, relative)
        try:
            entries = {entry.name: entry for entry in os.scandir(folder)}
        except (FileNotFoundError, NotADirectoryError):  # removed since
            continue
        except OSError as error:
            if error.errno in _OUT_OF or (not found.runs and relative == "."):
                raise RunError(f"{folder}: cannot be looked into: {error.strerror}\n  {_mended(error)}") from error
            found.unread.append(f"{folder}: left out: {error.strerror}")
            continue
        is_run = _note(found.runs, relative, folder, RUN_FILE) if RUN_FILE in entries else False
        if SWEEP_FILE in entries:
            found.sweeps.append(relative)
        if not is_run and not (JOB_FILE in entries and _note(found.jobs, relative, folder, JOB_FILE)):
            found.unborn.extend([relative] if LOCK_FILE in entries else [])
        for name, entry in entries.items():
            if is_run and name in _OF_A_RUN:
                continue
            if not name.startswith(".") and name.isprintable() and entry.is_dir(follow_symlinks=False):
                pending.append(name if relative == "." else f"{relative}/{name}")
    return found


def _mended(error: OSError) -> str:
    if error.errno == errno.EMFILE:
        return "this process may open too few files; to see how many: ulimit -n"
    return "expected a folder that can be read"


def _note(stamps: dict[str, Stamp], relative: str, folder: str, file: str) -> bool:
    """Whether the file, or what else has its name, is still there."""
    try:
        stamps[relative] = Stamp.of(os.stat(f"{folder}/{file}"))
    except OSError:
        return False
    return True


def is_held(folder: Path | str) -> bool:
    """Whether a process has this run, or the job that it is, as far as locks tell; what cannot be asked is held."""
    return any(is_locked(f"{folder}/{name}") for name in (LOCK_FILE, JOB_LOG))


def is_locked(path: Path | str) -> bool:
    """Whether a process has a lock on this file; one that cannot be asked counts as held."""
    try:
        with open_to_read(path) as lock:
            # Shared: those who ask do not take each other for its holder.
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False

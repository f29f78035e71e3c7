"""What in a folder a run has written, a sweep's job, or a run that never began; all else is somebody else's."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from esper.errors import FormatError
from esper.files import misfit, read_object, written_for
from esper.files.marks import WRITTEN, is_of_a_start
from esper.files.records import (
    CHECKPOINT_PREFIX,
    CHECKPOINTS,
    CONFIG_FILE,
    JOB,
    JOB_FILE,
    JOB_LOG,
    LOCK_FILE,
    RUN,
    RUN_FILE,
    TENSORBOARD,
    WANDB,
)

# What is in run.json and in job.json for sure, whatever came after.
_OF_A_RUN = {name: RUN[name] for name in ("schema", "id", "uid", "name", "status")}
_OF_A_JOB = {name: JOB[name] for name in ("id", "overrides", "status", "attempt", "host")}
_CHECKPOINT = re.compile(rf"{CHECKPOINT_PREFIX}\d+\.(safetensors|json|json\.new)")
_TENSORBOARD = re.compile(r"events\.out\.tfevents\.\d+\.\d{6}")
_WANDB_LINK = re.compile(r"latest-run|debug(-\w+)?\.log")


class Contents(NamedTuple):
    """What may go of a folder, in this order, and what stays."""

    own: list[Path]
    others: list[Path]


def contents(folder: Path) -> Contents:
    """What lies in a folder; nothing of it is a run's own where none has begun or been about to."""
    run, job = object_in(folder / RUN_FILE), object_in(folder / JOB_FILE)
    names, uid = set(), None
    if _is_signature(folder / LOCK_FILE):
        # What a start writes next: where it is not there, a temporary file for it may be.
        names |= {LOCK_FILE, *(name for name in (CONFIG_FILE, RUN_FILE) if not (folder / name).exists())}
    if is_of_a_run(run):
        names |= {*WRITTEN}
        uid = str(run["uid"])
    elif is_of_a_start(folder / CONFIG_FILE):
        names.add(CONFIG_FILE)
    if is_of_a_job(job):
        names |= {JOB_FILE, JOB_LOG}
    own, others = [], []
    for entry in sorted(folder.iterdir()):
        if uid is not None and entry.name in _FOLDERS and entry.is_dir() and not entry.is_symlink():
            inside = [(part, _FOLDERS[entry.name](part, uid)) for part in sorted(entry.iterdir())]
            own += [file for part, is_own in inside if is_own for file in _files(part)]
            others += [part for part, is_own in inside if not is_own]
        elif entry.name in names or (written_for(entry.name) or "") in names:
            own.append(entry)
        else:
            others.append(entry)
    # Last what the folder is known by: a kill in between leaves it known for what it is.
    signs = (JOB_FILE, RUN_FILE, LOCK_FILE)
    return Contents(sorted(own, key=lambda file: signs.index(file.name) if file.name in signs else -1), others)


def object_in(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds; empty where it holds none."""
    try:
        return read_object(path)
    except (OSError, FormatError):
        return {}


def is_of_a_run(record: dict[str, Any]) -> bool:
    """Whether this is what a run writes into run.json."""
    return misfit(record, _OF_A_RUN) is None and record["schema"] == 1 and bool(record["uid"])


def is_of_a_job(record: dict[str, Any]) -> bool:
    """Whether this is what a sweep's job writes into job.json."""
    return misfit(record, _OF_A_JOB) is None


def _is_signature(lock: Path) -> bool:
    """Whether a run's lock is what this is: nobody's, or signed."""
    try:
        return lock.is_file() and (not lock.stat().st_size or {"pid", "host", "since"} <= object_in(lock).keys())
    except OSError:
        return False


def _is_of_checkpoints(part: Path, uid: str) -> bool:
    return bool(_CHECKPOINT.fullmatch(written_for(part.name) or part.name))


def _is_of_tensorboard(part: Path, uid: str) -> bool:
    return bool(_TENSORBOARD.fullmatch(part.name))


def _is_of_wandb(part: Path, uid: str) -> bool:
    is_link = part.is_symlink() and bool(_WANDB_LINK.fullmatch(part.name))
    return is_link or bool(re.fullmatch(rf"(offline-)?run-\d{{8}}_\d{{6}}-{re.escape(uid)}", part.name))


_FOLDERS = {CHECKPOINTS: _is_of_checkpoints, TENSORBOARD: _is_of_tensorboard, WANDB: _is_of_wandb}


def _files(part: Path) -> list[Path]:
    """A file, or all that a folder holds; links are not followed."""
    if part.is_symlink() or not part.is_dir():
        return [part]
    return [file for inside in sorted(part.iterdir()) for file in _files(inside)]

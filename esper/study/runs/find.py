"""A run by its folder, or by any part of its path that no other run has."""

import os
from collections.abc import Iterable
from pathlib import Path

from esper.checks import did_you_mean
from esper.errors import RunError
from esper.files.marks import holds_run
from esper.files.records import JOB_LOG, RUN_FILE
from esper.study.runs.folders import ROOT, place, walk

_MOST_NAMED = 3
_EXPECTED = f"expected the folder of a run, such as {ROOT}/NAME/ID"


def find_run(text: str, root: Path | str = ROOT) -> Path:
    """The folder of the run that `text` means: a path, or a part of exactly one run's path below `root`.

    Raises RunError where there is none, or more than one.
    """
    check_named(text, root)
    if holds_run(Path(text)):
        return Path(text)
    found = _within(text, root)
    if len(found) > 1:
        raise RunError(f"{text}: {len(found)} runs lie there: {_named(map(str, found))}\n  expected one of them")
    folder = found[0] if found else _by_part(text, Path(root))
    if not holds_run(folder):
        from esper.study.runs.index import settled_row

        row = settled_row(folder)
        why = f"{row['status']} before it was a run: {row['error'] or 'its log may tell why'}"
        raise RunError(f"{folder}: a job of a sweep that {why}\n  what it printed: {folder / JOB_LOG}")
    return folder


def find_folders(text: str, root: Path | str = ROOT) -> list[Path]:
    """All runs that `text` means, and jobs that did not become runs.

    A run as for `find_run`; or all that lie in a folder, or in the one sweep that has the text in its path, if no run
    elsewhere has. Raises RunError.
    """
    check_named(text, root)
    if holds_run(Path(text)):
        return [Path(text)]
    sweep = _sweep(text, Path(root))
    return _within(sweep or text, root) or [_by_part(text, Path(root))]


def check_named(text: str, root: Path | str) -> None:
    """Raises RunError on what names no run but whatever there is: an empty text, the root, or a folder around it."""
    if not text.strip():
        raise RunError(f"{text!r}: an empty name means no run\n  {_EXPECTED}")
    if not holds_run(Path(text)) and Path(root).resolve().is_relative_to(Path(text).resolve()):
        raise RunError(f"{text}: all runs lie there\n  {_EXPECTED}, or a folder below {root}")


def _within(text: str, root: Path | str) -> list[Path]:
    """Runs and jobs of the folder that the text names, as it stands or below `root`."""
    folder = _folder(text, root)
    found = walk(folder) if folder else None
    return [Path(place(folder, run)) for run in sorted([*found.runs, *found.jobs])] if folder and found else []


def _sweep(text: str, root: Path) -> str | None:
    """The folder of the one sweep that has this in its path, if no run elsewhere has."""
    if _folder(text, root) or not root.is_dir():
        return None
    found, part = walk(root), text.removeprefix(f"{root}/").rstrip("/")
    sweeps = [sweep for sweep in found.sweeps if part in sweep]
    if len(sweeps) == 1 and all(run.startswith(f"{sweeps[0]}/") for run in found.runs if part in run):
        return place(root, sweeps[0])
    return None


def _folder(text: str, root: Path | str) -> Path | None:
    folders = (Path(text), Path(root, text))
    return next((folder for folder in folders if text.strip("./") and folder.is_dir()), None)


def _by_part(text: str, root: Path) -> Path:
    if not root.is_dir():
        raise RunError(f"{text}: no run\n  {_EXPECTED}")
    found = walk(root)
    part = text.removeprefix(f"{root}/").rstrip("/")
    matches = _matches(part, [*found.runs]) or _matches(part, [*found.jobs])
    if len(matches) == 1:
        return root / matches[0]
    if matches:
        raise RunError(
            f"{text}: {len(matches)} runs in {root} have that in their path: {_named(matches)}\n  write more of it"
        )
    if folder := _folder(text, root):
        raise RunError(f"{folder}: it has no {RUN_FILE}\n  {_EXPECTED}")
    known = [*found.runs, *map(os.path.basename, found.runs)]
    raise RunError(f"{text}: no such run in {root}{did_you_mean(text, known)}\n  esper runs lists them")


def _matches(part: str, runs: list[str]) -> list[str]:
    """Those that the part is all of, or the last of; else those that have it."""
    return [run for run in runs if part in (run, os.path.basename(run))] or [run for run in runs if part in run]


def _named(runs: Iterable[str]) -> str:
    given = sorted(runs)
    return ", ".join(given[:_MOST_NAMED]) + (", ..." if len(given) > _MOST_NAMED else "")

"""A run by its folder, or by any part of its path that no other run has."""

from pathlib import Path

from esper.config.checks import did_you_mean
from esper.errors import RunError
from esper.study.folders import ROOT, RUN_FILE, walk

_MOST_NAMED = 3


def find_run(text: str, root: Path | str = ROOT) -> Path:
    """The folder of the run that `text` means: a path, or a part of exactly one run's path below `root`.

    Raises RunError where there is none, or more than one.
    """
    folder, root = Path(text), Path(root)
    if (folder / RUN_FILE).is_file():
        return folder
    if not root.is_dir():
        raise RunError(f"{text}: no run\n  expected the folder of a run, such as {ROOT}/NAME/ID")
    runs = list(walk(root).runs)
    part = text.removeprefix(f"{root}/").rstrip("/")
    matches = [run for run in runs if part in (run, run.rpartition("/")[2])] or [run for run in runs if part in run]
    if len(matches) == 1:
        return root / matches[0]
    if matches:
        named = ", ".join(sorted(matches)[:_MOST_NAMED]) + (", ..." if len(matches) > _MOST_NAMED else "")
        raise RunError(f"{text}: {len(matches)} runs in {root} have that in their path: {named}\n  write more of it")
    if folder.is_dir():
        raise RunError(f"{text}: it has no {RUN_FILE}\n  expected the folder of a run, such as {ROOT}/NAME/ID")
    known = [*runs, *(run.rpartition("/")[2] for run in runs)]
    raise RunError(f"{text}: no such run in {root}{did_you_mean(text, known)}\n  esper runs lists them")

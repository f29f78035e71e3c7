"""Groups of runs, which are what is compared: runs that differ in nothing but their seeds are one group."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper.config.checks import flat
from esper.errors import FormatError, RunError
from esper.files import read_object
from esper.files.marks import holds_run
from esper.files.records import SWEEP, SWEEP_FILE
from esper.nissa.report.history import read_run
from esper.study.compare.labels import labels_of
from esper.study.compare.run_group import HOW_MANY, GroupedRun, RunGroup, decides, differ
from esper.study.runs.find import find_folders, find_run
from esper.study.runs.folders import ROOT, is_attempt
from esper.study.runs.query import read_config_file


@dataclass(slots=True)
class RunGroups:
    """What is compared with what; the first group is what the others are measured by."""

    groups: list[RunGroup]
    left_out: list[str]  # runs that are not in it, and why

    def differences(self) -> dict[str, list[Any]]:
        """The keys in which configurations differ, and each group's value; `...` where it has no such key."""
        keys = dict.fromkeys(key for group in self.groups for key in group.config if decides(key) or key in HOW_MANY)
        found = {"seed": [seeds(run.seed for run in group.runs) for group in self.groups]}
        found |= {key: [group.config.get(key, ...) for group in self.groups] for key in keys}
        return {key: values for key, values in found.items() if differ(values)}

    def is_own(self, key: str) -> bool:
        """Whether only some options of a configuration group have this key, as policy=ppo has `policy.updates`."""
        name = f"{key.partition('.')[0]}.name"
        is_choice = differ(group.config.get(name) for group in self.groups)
        return is_choice and any(key not in group.config for group in self.groups)


def read_groups(arguments: Sequence[str], root: Path | str = ROOT) -> RunGroups:
    """The runs that the arguments mean, read and put together.

    arguments: runs (see `find_run`), or folders of them, such as a sweep's. Raises RunError where one means no run, or
    all of them mean a single one.
    """
    folders = list(dict.fromkeys(folder for argument in arguments for folder in _folders(argument, Path(root))))
    left_out, runs = [], []
    for folder in folders:
        run = GroupedRun(read_run(folder), flat(read_config_file(folder)))
        if run.history.records or run.history.run.get("summary"):
            runs.append(run)
        else:
            left_out.append(f"{folder}: no epoch of it has been recorded")
    by_configuration: dict[str, list[GroupedRun]] = {}
    for run in runs:
        by_configuration.setdefault(_experiment(run), []).append(run)
    if len(by_configuration) == 1:  # nothing but seeds tells them apart: each is a group
        by_configuration = {str(run.folder): [run] for run in runs}
    if len(by_configuration) < 2:
        what = f"only {runs[0].folder} has something to compare" if runs else "there is nothing to compare"
        raise RunError(f"{what}\n  give two runs or more, or a sweep's folder: esper compare RUN RUN ...")
    groups = [RunGroup("", _one_a_seed(same, left_out)) for same in by_configuration.values()]
    for group, label in zip(groups, labels_of(groups), strict=True):
        group.label = label
    return RunGroups(groups, left_out)


def seeds(numbers: Iterable[int]) -> str:
    """ "3", "0 to 7", or "0, 2, 5"."""
    given = sorted(set(numbers))
    if len(given) > 2 and given[-1] - given[0] == len(given) - 1:
        return f"{given[0]} to {given[-1]}"
    return ", ".join(map(str, given))


def _experiment(run: GroupedRun) -> str:
    """All of a configuration that decides what is measured, but for the seed."""
    decisive = sorted((key, value) for key, value in run.config.items() if decides(key))
    return repr(decisive) if decisive else str(run.folder)


def _folders(argument: str, root: Path) -> list[Path]:
    """The runs that the argument means, of attempts the last; a sweep's in the order in which they were asked for."""
    found = find_folders(argument, root)
    runs = [folder for folder in found if holds_run(folder) and not is_attempt(str(folder))]
    if len(found) == 1 or not runs:
        return [find_run(str(found[0]) if len(found) == 1 else argument, root)]
    jobs = {parent: _jobs(parent) for parent in {folder.parent for folder in runs}}

    def place_in_sweep(folder: Path) -> tuple[bool, str, int, str]:
        asked = jobs[folder.parent]
        is_job = folder.name in asked
        return not is_job, str(folder.parent), asked.index(folder.name) if is_job else 0, folder.name

    return sorted(runs, key=place_in_sweep)


def _jobs(sweep: Path) -> list[str]:
    """The names of a sweep's jobs, in the order in which they were asked for; none of another folder."""
    try:
        return list(read_object(sweep / SWEEP_FILE, SWEEP, {"jobs"})["jobs"])
    except (OSError, FormatError):
        return []


def _one_a_seed(runs: list[GroupedRun], left_out: list[str]) -> list[GroupedRun]:
    """Of runs with the same seed the newest that finished; in the order of seeds."""
    newest: dict[int, GroupedRun] = {}
    for run in sorted(runs, key=lambda run: (run.history.status == "finished", str(run.history.run.get("started_at")))):
        if run.seed in newest:
            left_out.append(f"{newest[run.seed].folder}: {run.folder} is a newer run of the same")
        newest[run.seed] = run
    return [newest[seed] for seed in sorted(newest)]

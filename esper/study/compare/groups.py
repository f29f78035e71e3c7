"""Groups of runs, which are what is compared: runs that differ in nothing but their seeds are one group."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from esper.checks import spelled
from esper.config.checks import flat
from esper.config.store import VOLATILE
from esper.errors import FormatError, RunError
from esper.files import read_object
from esper.files.marks import holds_run
from esper.files.records import SWEEP, SWEEP_FILE
from esper.leyline import ScoreKind
from esper.nissa.report.history import RunHistory, read_run
from esper.study.runs.find import find_folders, find_run
from esper.study.runs.folders import ROOT, is_attempt
from esper.study.runs.query import read_config_file
from esper.study.runs.rows import chosen_groups

Host = tuple[int, int]  # (seed, member)
# Parts of a configuration that decide nothing about what is measured, and what of them does all the same.
_ASIDE = (*VOLATILE, "seed", "engine", "debug")
_NEVERTHELESS = ("engine.precision", "engine.governor.")
_HOW_MANY = ("engine.members", "engine.twins")
_MOST_WORDS = 4
_LONGEST_WORD = 24


@dataclass(slots=True)
class GroupedRun:
    """A run of a group: what it wrote, what it was configured as, and its grown members by number."""

    history: RunHistory
    config: dict[str, Any]

    @property
    def folder(self) -> Path:
        return self.history.run_dir

    @property
    def seed(self) -> int:
        given = (self.config.get("seed"), self.history.run.get("seed"))
        return next((seed for seed in given if type(seed) is int), 0)

    @property
    def hosts(self) -> list[int]:
        """Grown members, from the first epoch's line or, without one, as many as the summary has."""
        figures = (self.history.run.get("summary") or {}).get("grown") or {}
        return self.history.grown or list(range(max(map(len, figures.values()), default=0)))

    def final(self, name: str, who: str = "grown") -> list[float | None]:
        """One figure of the summary, member by member; empty as long as there is none."""
        return ((self.history.run.get("summary") or {}).get(who) or {}).get(name) or []


@dataclass
class RunGroup:
    """Runs of one configuration, each of its own seed."""

    label: str
    runs: list[GroupedRun]

    @property
    def config(self) -> dict[str, Any]:
        """The configuration, by dotted key."""
        return self.runs[0].config

    @property
    def score(self) -> ScoreKind:
        """What its members are judged by."""
        return self.runs[0].history.score

    @cached_property
    def epochs(self) -> np.ndarray:
        """The epochs that any of its runs has recorded. [T]"""
        return np.unique(np.concatenate([run.history.epochs for run in self.runs]))

    def finals(self, name: str) -> dict[Host, float]:
        """One figure of the summaries, host by host; "gain" is the test score over the static twin's."""
        found: dict[Host, float | None] = {}
        for run in self.runs:
            values = run.final(f"test_{self.score.name}" if name == "gain" else name)
            if name == "gain":
                twins = run.final(f"test_{self.score.name}", "twin")
                values = [_minus(mine, other) for mine, other in zip(values, twins, strict=False)]
            found |= {(run.seed, host): value for host, value in zip(run.hosts, values, strict=False)}
        return {host: float(value) for host, value in found.items() if value is not None}

    def curves(self, key: str) -> dict[Host, np.ndarray]:
        """One metric of metrics.jsonl, host by host, over `epochs`; NaN where nothing was measured. [T] each"""
        found = {}
        for run in self.runs:
            at = np.searchsorted(self.epochs, run.history.epochs)
            for host in run.history.grown:
                values = np.full(len(self.epochs), np.nan)
                values[at] = np.array(run.history.member_series(host, key), dtype=float)
                found[run.seed, host] = values
        return found

    def a_host(self, name: str) -> float | None:
        """Seeds "planted", "culled" or "fossilized", a host; None as long as no run has a summary."""
        tested = [run for run in self.runs if run.history.run.get("summary")]
        hosts = sum(len(run.hosts) for run in tested)
        counts = [((run.history.run["summary"]).get("seeds") or {}).get(name, 0) for run in tested]
        return sum(counts) / hosts if hosts else None

    @property
    def wall_s(self) -> float:
        """Seconds that its runs took together; runs that trained as one program share its time."""
        records = [run.history.run for run in self.runs]
        return sum(float(record.get("wall_s") or 0.0) / max(record.get("together") or 1, 1) for record in records)


@dataclass(slots=True)
class RunGroups:
    """What is compared with what; the first group is what the others are measured by."""

    groups: list[RunGroup]
    left_out: list[str]  # runs that are not in it, and why

    def differences(self) -> dict[str, list[Any]]:
        """The keys in which configurations differ, and each group's value; `...` where it has no such key."""
        keys = dict.fromkeys(key for group in self.groups for key in group.config if _decides(key) or key in _HOW_MANY)
        found = {"seed": [seeds(run.seed for run in group.runs) for group in self.groups]}
        found |= {key: [group.config.get(key, ...) for group in self.groups] for key in keys}
        return {key: values for key, values in found.items() if _differ(values)}

    def is_own(self, key: str) -> bool:
        """Whether only some options of a configuration group have this key, as policy=ppo has `policy.updates`."""
        name = f"{key.partition('.')[0]}.name"
        is_choice = _differ(group.config.get(name) for group in self.groups)
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
    for group, label in zip(groups, _labels(groups), strict=True):
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
    decisive = sorted((key, value) for key, value in run.config.items() if _decides(key))
    return repr(decisive) if decisive else str(run.folder)


def _decides(key: str) -> bool:
    return key.partition(".")[0] not in _ASIDE or key.startswith(_NEVERTHELESS)


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


def _labels(groups: Sequence[RunGroup]) -> list[str]:
    """What tells each group from the others, in a few words: "ppo", "learning_rate 0.1", else the run's id."""
    distinctions = _distinctions(groups)
    chosen: list[int] = []
    labels = [""] * len(groups)
    while len(set(labels)) < len(groups) and len(chosen) < min(_MOST_WORDS, len(distinctions)):
        left = (number for number in range(len(distinctions)) if number not in chosen)
        chosen.append(max(left, key=lambda number: len({*zip(labels, distinctions[number], strict=True)})))
        labels = [_in_words(distinctions[number][index] for number in sorted(chosen)) for index in range(len(groups))]
    further = [number for number in range(len(distinctions)) if number not in chosen][: _MOST_WORDS - len(chosen)]
    shown = sorted([*chosen, *further])
    labels = [_in_words(distinctions[number][index] for number in shown) for index in range(len(groups))]
    return [
        _in_words((label, group.runs[0].folder.name)) if not label or labels.count(label) > 1 else label
        for group, label in zip(groups, labels, strict=True)
    ]


def _distinctions(groups: Sequence[RunGroup]) -> list[list[str]]:
    """All in which groups differ, the policy first: for each thing the words for it, group by group."""
    options = [chosen_groups(group.runs[0].folder, group.runs[0].history.run.get("options") or {}) for group in groups]
    known = dict.fromkeys(name for chosen in options for name in chosen if _decides(name))
    choices = {name: [str(chosen.get(name) or "") for chosen in options] for name in known}
    choices = {name: values for name, values in choices.items() if _differ(values)}

    def is_of_the_choice(key: str, values: list[Any]) -> bool:
        """Whether an option's name says as much as the value."""
        names = choices.get(key.partition(".")[0], [])
        return bool(names) and len({*zip(names, map(repr, values), strict=True)}) == len(set(names))

    keys = list(dict.fromkeys(key for group in groups for key in group.config if _decides(key)))
    keys += [*_HOW_MANY, *(["seed"] if all(len(group.runs) == 1 for group in groups) else [])]
    distinctions = [choices[name] for name in sorted(choices, key=lambda name: name != "policy")]
    for key in keys:
        values = [group.config.get(key, ...) for group in groups]
        if _differ(values) and not is_of_the_choice(key, values):
            distinctions.append(
                ["" if value is ... else f"{key.rpartition('.')[2]} {_short(value)}" for value in values]
            )
    return distinctions


def _in_words(words: Iterable[str]) -> str:
    return ", ".join(filter(None, words))


def _short(value: Any) -> str:
    """A value in a label; of a path, the last part."""
    text = spelled(value)
    text = text.rstrip("/").rpartition("/")[2] if isinstance(value, str) else text
    return text if len(text) <= _LONGEST_WORD else f"{text[: _LONGEST_WORD - 1]}…"


def _differ(values: Iterable[Any]) -> bool:
    given = list(values)
    return any(value != given[0] for value in given)


def _minus(mine: float | None, other: float | None) -> float | None:
    return None if mine is None or other is None else mine - other

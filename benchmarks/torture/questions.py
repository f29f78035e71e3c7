"""Everything that is asked of a folder of runs, and which of its files it reads."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

import esper
from esper.cli import main as command
from esper.config.suite import read_suite
from esper.files import read_object
from esper.runner.directory import RunDirectory
from esper.runner.resuming import configuration
from esper.simic.iql.recorded import find_runs, read_episodes
from esper.sweep.folder import SweepFolder
from esper.sweep.jobs import JobFile


@dataclass(frozen=True, slots=True)
class Question:
    """`reads`: which files, below the root; `ask(root)` answers with an exit code or raises EsperError."""

    name: str
    reads: tuple[str, ...]
    ask: Callable[[Path], object]


def _command(*arguments: str, reads: tuple[str, ...]) -> Question:
    def ask(root: Path) -> int:
        given = [argument.replace("ROOT", str(root)) for argument in arguments]
        return command(given if given[0] in ("analyze", "audit", "convert") else [*given, "--root", str(root)])

    return Question(f"esper {' '.join(arguments)}", reads, ask)


def _resumed_half(root: Path) -> int:
    with RunDirectory.reopen(root / "killed") as folder:
        checkpoint = folder.last_checkpoint()
        configuration(folder.path, [], checkpoint)
    return 0


def _loaded(root: Path) -> int | dict[str, torch.Tensor]:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        loaded = esper.load_member(root / "killed").state_dict()
    return 0 if told else loaded


def _recorded(root: Path) -> int:
    for folder in find_runs(root):
        read_episodes(folder)
    return 0


def _sweep_again(root: Path) -> int:
    with SweepFolder(root / "sweep", read_object(root.parent / "sound/sweep/sweep.json")) as folder:
        for job in folder.path.glob("*/job.*"):
            JobFile(job.parent).status()
    return 0


SWEPT = (
    "debug=smoke",
    "epochs=1",
    "telemetry=none",
    "policy=static",
    "seed=1,2",
    "task.image_size=8",
    "host.channels=[2]",
    "slots=early",
)
_RESUMED = ("killed/run.*", "killed/config.yaml", "killed/checkpoints/*")
_KILLED, _BASES = "killed/*", ("*/run.json", "*/job.json", "*/sweep.json")
QUESTIONS = (
    _command(
        *("evaluate", "ROOT/killed", "--suite", "ROOT/suite.yaml", "--seeds", "1", "--db", "ROOT/evaluations.sqlite"),
        reads=("killed/run.json", "killed/checkpoints/*", "evaluations.sqlite"),
    ),
    _command("runs", reads=(*_BASES, "index.sqlite", "*/run.lock")),
    _command("runs", "--json", "--filter", "age>1s", reads=(*_BASES, "index.sqlite")),
    _command("report", "ROOT/killed", reads=(_KILLED,)),
    _command(
        "compare", "ROOT/killed", "ROOT/other", "--page", "ROOT/comparison.html", reads=("killed/*.*", "other/*.*")
    ),
    _command("compare", "ROOT/sweep", "--page", "ROOT/comparison.html", reads=("sweep/*",)),
    _command("clean", "--finished", reads=("*/*",)),
    _command("clean", "--finished", "ROOT/killed", "ROOT/sweep", reads=(_KILLED, "sweep/*")),
    _command("analyze", "--db", "ROOT/evaluations.sqlite", reads=("evaluations.sqlite",)),
    _command("analyze", "--db", "ROOT/evaluations.sqlite", "--format", "json", reads=("evaluations.sqlite",)),
    _command("audit", "ROOT/old.pt", reads=("old.pt",)),
    _command("audit", "ROOT/legacy.pt", reads=("legacy.pt",)),
    _command("convert", "ROOT/old.pt", "ROOT/converted", reads=("old.pt",)),
    Question("resume, the half that reads", _RESUMED, _resumed_half),
    Question("policy.dataset", ("*/metrics.jsonl", "*/run.json"), _recorded),
    Question("the sweep once more", ("sweep/*",), _sweep_again),
    # What a sound suite asks for may take any time, and is no matter here.
    Question("a suite", ("suite.yaml",), lambda root: read_suite(str(root / "suite.yaml")) and 0),
    Question("load_member", _RESUMED, _loaded),
)

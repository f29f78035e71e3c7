"""What the pages show runs as it stands: code, and commands."""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from esper.checkpoint import save_checkpoint
from esper.cli import build_parser
from esper.config.composing import compose
from esper.run import main
from esper.runner.distributed import TorchRanks
from esper.simic.on_policy.collector import Collector
from esper.simic.ppo.agent import PPOAgent
from esper.study.analyze.requirement import Requirement
from esper.study.evaluate.measures import measure
from esper.study.runs.query import Condition
from tests.simic.corridor import Corridor

ROOT = Path(__file__).resolve().parents[1]
PAGES = {page.name: page.read_text() for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
BLOCKS = {name: re.findall(r"```python\n(.*?)```", text, flags=re.S) for name, text in PAGES.items()}
CODE = {name: "\n".join(blocks) for name, blocks in BLOCKS.items() if blocks}


def readme_given() -> dict[str, Any]:
    assert main(["debug=smoke", "telemetry=none", "hydra.run.dir=outputs/digits_heuristic/ID"]) == 0
    save_checkpoint(torch.nn.Linear(2, 2), "FOLDER/FILE.safetensors", metadata={"note": 1})
    return {"images": torch.zeros(2, 1, 16, 16), "network": torch.nn.Linear(2, 2)}


def ranks_given() -> dict[str, Any]:
    corridor = Corridor(2)
    rollout = Collector(corridor, PPOAgent(6, action_dim=3), seed=0).collect(4)
    return {"TorchRanks": TorchRanks, "PPOAgent": PPOAgent, "features": 6, "actions": 3, "rollout": rollout}


# What a page's code is given, and what it must have come to; the code of a page that is not here is not shown yet.
CASES: dict[str, tuple[Callable[[], dict[str, Any]], Callable[[dict[str, Any]], Any]]] = {
    "README.md": (readme_given, lambda end: end["logits"].shape == (2, 10) and end["sidecar"]["metadata"]["note"] == 1),
    "bring-your-own.md": (
        dict,
        lambda end: end["models"][0].slots["mid"].alpha == 1.0 and torch.isfinite(end["scores"].loss).all(),
    ),
    "configuration.md": (dict, lambda end: end["config"].engine.members == 4),
    "distributed.md": (ranks_given, lambda end: end["learner"] is not None),
    "environment.md": (dict, lambda end: end["returns"].shape == (2,) and np.isfinite(end["returns"]).all()),
}
PROGRAMS = {"sweeps.md"}  # whole programs: each runs in a process of its own, below


def test_all_code_is_tried():
    assert CODE.keys() == CASES.keys() | PROGRAMS


@pytest.mark.parametrize("page", CASES)
def test_code_runs(page, tmp_path, monkeypatch):
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in alone.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    given, holds = CASES[page]
    space = given()
    exec(compile(CODE[page], page, "exec"), space)
    assert holds(space)


def test_the_program_that_sweeps_runs(tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text(
        "defaults: [_self_, {override hydra/sweeper: resumable}]\nx: 1\nlog_level: info\n"
        'hydra: {sweep: {dir: "outputs/sweep-${hydra.sweeper.id}"}}\n'
    )
    (tmp_path / "train.py").write_text(CODE["sweeps.md"])
    command = [sys.executable, "train.py", "-m", "x=1,2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.glob("outputs/sweep-*/*/job.json"))) == 2
    assert "0.93" in done.stdout


def commands() -> Iterator[tuple[str, str]]:
    """(page, command) of what blocks that are no Python show, without what explains it."""
    for page, text in PAGES.items():
        for language, block in re.findall(r"```(\w*)\n(.*?)```", text, flags=re.S):
            for line in ("" if language == "python" else block).replace("\\\n", " ").splitlines():
                shown = re.match(r"\W*((?:torchrun .*?|python )-m esper\.run\b.*|esper .*)", line)
                if shown:
                    # An explanation follows a # or, in a list of commands, many spaces; a pipe ends the command.
                    yield page, re.split(r"\s+#\s|\s{3,}(?=[a-z\"])(?!\S*=)| \| | > ", shown[1])[0].strip()


COMMANDS = sorted(set(commands()))
OF_RUNS = [(page, command) for page, command in COMMANDS if "esper.run" in command]
OF_ESPER = [(page, command) for page, command in COMMANDS if command.startswith("esper ")]


def test_commands_are_found():
    assert len(OF_RUNS) > 25
    assert len(OF_ESPER) > 25
    assert {"README.md", "ci.md", "sweeps.md", "study.md", "distributed.md"} <= {page for page, _ in COMMANDS}


@pytest.mark.parametrize(("page", "command"), OF_RUNS)
def test_commands_of_runs_are_understood(page, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(command.partition("-m esper.run")[2])
    mine = re.search(r"(mine/gates/\w+\.yaml):\n((?:    .+\n)+)", PAGES[page])
    if mine:  # the page's own file of options
        (tmp_path / mine[1]).parent.mkdir(parents=True)
        (tmp_path / mine[1]).write_text(re.sub(r"^    ", "", mine[2], flags=re.M))
    if "..." in arguments or any(argument.startswith("resume=") for argument in arguments):
        return
    wrong = re.search(rf"^\$ {re.escape(command)}\n(error: .*\n.*)\n", PAGES[page], re.M)
    if wrong or "--help" in arguments:
        out, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            assert main(arguments) == (2 if wrong else 0)
        assert errors.getvalue() == (f"{wrong[1]}\n" if wrong else "")
    elif "-m" in arguments:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert main([*arguments, *(() if "--dry-run" in arguments else ("--dry-run",))]) == 0
        assert "none is run now" in out.getvalue()
    else:
        folder = arguments[arguments.index("--config-dir") + 1] if "--config-dir" in arguments else None
        compose([argument for argument in arguments if "=" in argument], config_dir=folder).check_names()


@pytest.mark.parametrize(("page", "command"), OF_ESPER)
def test_commands_of_esper_are_understood(page, command):
    options = build_parser().parse_args([word for word in shlex.split(command)[1:] if word != "..."])
    for condition in getattr(options, "filter", ()):
        Condition.parse(condition)
    for requirement in getattr(options, "require", ()):
        Requirement.parse(requirement)
    for name in getattr(options, "metric", ()):
        assert measure(name)

"""What the pages show runs as it stands: code, and commands."""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import esper
from esper.cli.commands import build_parser
from esper.config.composing import compose
from esper.config.plugins import CACHE_VARIABLE
from esper.forge.bundles import save_language_model
from esper.forge.composing import compose as compose_forge
from esper.run import main
from esper.runner.distributed import TorchRanks
from esper.simic.on_policy.collector import Collector
from esper.simic.ppo.agent import PPOAgent
from esper.study.analyze.requirement import Requirement
from esper.study.evaluate.measures import measure
from esper.study.runs.query import parse_filter
from esper.tasks.text.tokenizer import get_tokenizer
from tests.config.test_plugins import forget
from tests.forge.models import network
from tests.simic.corridor import Corridor

ROOT = Path(__file__).resolve().parents[1]
AT_ROOT = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]  # recipes have a test of their own: tests/test_contributing.py
PAGES = {page.name: page.read_text().partition("## Recipes")[0] for page in [*AT_ROOT, *sorted(ROOT.glob("docs/*.md"))]}
FENCES = {name: re.findall(r"^ *```(\S*)\n(.*?)^ *```", text, flags=re.S | re.M) for name, text in PAGES.items()}
OWN_FILE = re.compile(r"# (parts\.py)\n")  # a block that is a file of a user's own says so in its first line
BLOCKS = {
    name: [block for kind, block in fences if kind == "python" and not OWN_FILE.match(block)]
    for name, fences in FENCES.items()
}
CODE = {name: "\n".join(blocks) for name, blocks in BLOCKS.items() if blocks}


def readme_given() -> dict[str, Any]:
    assert main(["debug=smoke", "telemetry=none", "hydra.run.dir=RUN"]) == 0
    return {"images": torch.zeros(2, 1, 16, 16)}


def ranks_given() -> dict[str, Any]:
    corridor = Corridor(2)
    rollout = Collector(corridor, PPOAgent(6, action_dim=3), seed=0).collect(4)
    return {"TorchRanks": TorchRanks, "PPOAgent": PPOAgent, "features": 6, "actions": 3, "rollout": rollout}


def models_given() -> dict[str, Any]:
    settings = {"phase": "cognate", "seed": 0, "data_fingerprint": ""}
    save_language_model("RUN/1-cognate/model", network(), get_tokenizer(), **settings)
    return {"tokens": torch.zeros(2, 8, dtype=torch.int64)}


# What a page's code is given, and what it must have come to; the code of a page that is not here is not shown yet.
CASES: dict[str, tuple[Callable[[], dict[str, Any]], Callable[[dict[str, Any]], Any]]] = {
    "README.md": (readme_given, lambda end: end["logits"].shape == (2, 10) and end["env"].spec is not None),
    "bring-your-own.md": (
        dict,
        lambda end: end["models"][0].slots["mid"].alpha == 1.0 and torch.isfinite(end["scores"].loss).all(),
    ),
    "checkpoints.md": (lambda: {"network": torch.nn.Linear(2, 2)}, lambda end: end["sidecar"]["metadata"]["note"] == 1),
    "python.md": (
        dict,
        lambda end: end["logits"].shape == (5, 10) and end["finished"] == [end["same"]] and len(end["grower"].log) == 1,
    ),
    "configuration.md": (dict, lambda end: end["config"].engine.members == 4),
    "data.md": (
        dict,
        lambda end: (
            [end[name].input_shape for name in ("images", "arrays", "table", "custom")]
            == [(3, 16, 16), (1, 8, 8), (4,), (1, 8, 8)]
        ),
    ),
    "distributed.md": (ranks_given, lambda end: end["learner"] is not None),
    "text.md": (dict, lambda end: 0.0 < end["corpus"].overlap < 0.2),
    "language-models.md": (models_given, lambda end: len(end["card"].phase) and end["logits"].shape == (2, 8, 264)),
    "forge.md": (dict, lambda end: end["result"].success and end["model"].card.phase == "cognate"),
    "environment.md": (dict, lambda end: end["returns"].shape == (2,) and np.isfinite(end["returns"]).all()),
}
PROGRAMS = {"extending.md", "sweeps.md"}  # whole programs: each runs in a process of its own, below


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


@pytest.mark.parametrize(
    ("factory", "positions"),
    [
        ("timm_resnet", ["layer1", "layer2", "layer3"]),
        ("timm_vit", ["blocks.0", "blocks.1", "blocks.3"]),
        ("torchvision_resnet", ["layer1", "layer2", "layer3"]),
    ],
)
def test_networks_of_other_libraries_grow_as_shown(factory, positions):
    pytest.importorskip(factory.partition("_")[0])
    space: dict[str, Any] = {}
    exec(next(block for block in BLOCKS["bring-your-own.md"] if factory in block), space)
    network, images = space[factory]((1, 16, 16), 10), torch.zeros(2, 1, 16, 16)
    model = esper.grow(network, {f"slot{number}": path for number, path in enumerate(positions)}, images)
    assert model(images).shape == (2, 10)


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


def test_parts_of_ones_own_run(tmp_path):
    (tmp_path / "my_parts.py").write_text(CODE["extending.md"])
    quick = ["telemetry.report=false", "telemetry.console=off", "engine.threads=1", "engine.members=2"]
    shown = [shlex.split(command.partition("-m esper.run")[2]) for page, command in OF_RUNS if page == "extending.md"]
    program = f"from esper.run import main\nfor each in {shown}:\n    assert main(each + {quick}) == 0, each"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "with_sink/epochs.txt").read_text() == "0\n1\n2\n"
    assert len(list(tmp_path.glob("outputs/*/sweep-*/*/run.json"))) == 2


SHOWN = re.compile(
    r"\W*(?:run: )?(?:for run in a b; do )?((?:torchrun .*?|python )-m esper\.(?:run|forge)\b.*|esper .*)"
)
BESIDE = re.compile(  # what else is shown: other programs', and files of a user's own
    r"make (?P<target>\w+)|pip install 'esper\[(?P<extras>[\w,]+)\]'|\. "
    r"|(?:cd|cmp|eval|pip|pre-commit|sqlite3|tensorboard) "
    r"|python -m (?:pip|build|venv|twine) |mine/gates/\w+\.yaml:$|run +status +progress "
)


def commands() -> Iterator[tuple[str, str]]:
    """(page, command) of what blocks that are no Python show, without what explains it."""
    for page, fences in FENCES.items():
        for kind, block in fences:
            for line in ("" if kind in ("python", "text") else block).replace("\\\n", " ").splitlines():
                if shown := SHOWN.match(line):
                    # An explanation follows a # or, in a list of commands, many spaces; others' signs end the command.
                    yield page, re.split(r"\s+#\s|\s{3,}(?=[a-z\"])(?!\S*=)| \| | >|; done", shown[1])[0].strip()


COMMANDS = sorted(set(commands()))
OF_RUNS = [(page, command) for page, command in COMMANDS if "esper.run" in command]
UNDERSTOOD = [(page, command) for page, command in OF_RUNS if page not in PROGRAMS or "plugins=" not in command]
OF_FORGE = [(page, command) for page, command in COMMANDS if "esper.forge" in command]
OF_ESPER = [(page, command) for page, command in COMMANDS if command.startswith("esper ")]


def test_every_block_is_of_a_kind_that_is_tried():
    for page, fences in FENCES.items():
        for kind, block in fences:
            assert kind in ("", "python", "text", "yaml"), f"{page}: {kind}"
            first = block.strip().splitlines()[0]
            assert kind or SHOWN.match(first) or BESIDE.match(first.strip()), (
                f"{page}: {first}: ```text, if it is output"
            )
    assert all("```" not in re.sub(r"^ *```.*$", "", text, flags=re.M) for text in PAGES.values())


def test_what_other_commands_name_is_there():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for page, text in PAGES.items():
        for named in BESIDE.finditer(text):
            assert {named["target"]} <= targets | {None} or f"`make {named['target']}" not in text, (
                f"{page}: {named[0]}"
            )
            assert set((named["extras"] or "wandb").split(",")) <= extras.keys(), f"{page}: {named[0]}"
        for module in re.findall(r"python -m ((?:benchmarks|esper)[\w.]*\w)", text):
            place = ROOT / module.replace(".", "/")
            assert place.with_suffix(".py").exists() or place.is_dir(), f"{page}: {module}"


def test_every_file_that_is_named_is_there():
    for page in ("architecture.md", "engine.md", "releasing.md", "CONTRIBUTING.md"):
        for name in re.findall(r"`((?:esper|conf|tests|docs|scripts|benchmarks)/[\w./-]+)`", PAGES[page]):
            assert (ROOT / name).exists(), f"{page}: {name}"
    assert len(re.findall(r"^\| … .* \| `[^`]+` \|$", PAGES["architecture.md"], re.M)) >= 25


def test_the_ways_through_the_code_are_as_drawn():
    way, epoch = [block for kind, block in FENCES["architecture.md"] if kind == "text"]
    for path, names in re.findall(r"^ *(esper/[\w/]+\.py) +(\S+(?: -> \S+)*)", way, re.M):
        text = (ROOT / path).read_text()
        for name in re.split(r" -> |\.", names):
            assert re.search(rf"\b(?:def|class) {name}\b", text), f"{path} has no {name}"
    files = [*ROOT.glob("esper/engine/**/*.py"), *(ROOT / "esper/runner" / name for name in ("run.py", "loop.py"))]
    sources = "\n".join(path.read_text() for path in files)
    for name in re.findall(r"[├└]─ (?:per minibatch: )?[\w.]*?(\w+)(?:\(|  )", epoch):
        assert re.search(rf"def {name}\b", sources), name


def test_the_public_workflow_calls_what_is_called_here():
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["check"]
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    shown = [yaml.safe_load(block) for kind, block in FENCES["ci.md"] if kind == "yaml"]
    assert all(workflow["jobs"] for workflow in shown)


def test_commands_are_found():
    assert len(OF_RUNS) > 25
    assert len(OF_ESPER) > 25
    assert len(OF_FORGE) > 8
    assert {"README.md", "ci.md", "sweeps.md", "study.md", "distributed.md"} <= {page for page, _ in COMMANDS}


@pytest.mark.parametrize(("page", "command"), UNDERSTOOD)
def test_commands_of_runs_are_understood(page, command, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    if "plugins=" in command:  # the page's own part, which other tests know nothing of
        (block,) = (block for _, block in FENCES[page] if OWN_FILE.match(block))
        (tmp_path / OWN_FILE.match(block)[1]).write_text(block)
        monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
        monkeypatch.setattr(sys, "path", list(sys.path))
        request.addfinalizer(forget)
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
    elif "debug=smoke" in arguments and "DIR" not in command:  # a few seconds: it is run, and all others are composed
        assert main([argument.replace("$run", "a") for argument in arguments]) == 0
    else:
        folder = arguments[arguments.index("--config-dir") + 1] if "--config-dir" in arguments else None
        compose([argument for argument in arguments if "=" in argument], config_dir=folder).check_names()


@pytest.mark.parametrize(("page", "command"), OF_FORGE)
def test_commands_of_the_forge_are_understood(page, command):
    arguments = shlex.split(command.partition("-m esper.forge")[2])
    if "--help" in arguments:
        return
    overrides = [argument for argument in arguments if "=" in argument]
    resumed = [override for override in overrides if override.startswith("resume=")]
    if "-m" in arguments:  # of a sweep, the first of each key's values
        overrides = [override.partition(",")[0] for override in overrides]
    compose_forge([override for override in overrides if override not in resumed])


@pytest.mark.parametrize(("page", "command"), OF_ESPER)
def test_commands_of_esper_are_understood(page, command):
    options = build_parser().parse_args([word for word in shlex.split(command)[1:] if word != "..."])
    for condition in getattr(options, "filter", ()):
        parse_filter(condition)
    for requirement in getattr(options, "require", ()):
        Requirement.parse(requirement)
    for name in getattr(options, "metric", ()):
        assert measure(name)

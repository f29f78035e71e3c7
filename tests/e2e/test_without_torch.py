"""What a name or a folder decides is answered before torch is loaded."""

import os
import subprocess
import sys
import time

import pytest
import yaml

from esper.config.composing import compose, to_plain
from tests.e2e.conftest import ROOT
from tests.study.run_folders import make_run

CASES = [
    (["blueprint.names=[zzzz]"], "no cnn blueprint 'zzzz'\n  known are norm,"),
    (["blueprint.names=[conv_lihgt]"], "did you mean 'conv_light'?"),
    (["blueprint.names=[lora]"], "'lora' is for transformer hosts"),
    (["experiment=language", "blueprint.names=[mlpp]"], "did you mean 'mlp'?"),
    (["policy=scheduled", "policy.blueprints=[conv_lite]"], "did you mean 'conv_light'?"),
    (["policy.preferred_blueprints=[conv_lite]"], "policy.preferred_blueprints: no cnn blueprint 'conv_lite'"),
    (["slots.names=[earli]"], "slots.names: this host has no position 'earli'; it has early, mid, late, block1,"),
    (["slots.names=[early,block1]"], "both fall on block1"),
    (["host=custom", "host.factory=a:b", "host.positions=[l.1]", "slots.names=[l_2]"], "did you mean 'l_1'?"),
    (["slots=earlyy"], "did you mean slots=early?"),
    (["policy=heuristc"], "did you mean policy=heuristic?"),
    (["host.channels=[2,2,2,2,2,2]"], "6 blocks pool images of 16x16 pixels to nothing"),
    (["host=vit", "host.patch=5"], "does not divide images of 16x16 pixels\n  expected one of 1, 2, 4, 8, 16"),
    (["host=resnet", "slots.names=[block1]"], "no position 'block1'; it has early, mid, late, stage1, stage2, stage3"),
    (["host=mlp", "blueprint.names=[conv_light]"], "'conv_light' is for cnn and cnn1d hosts: mlp hosts take norm,"),
    (["hydra.run.dir=taken"], "taken already holds a run"),
    (["hydra.run.dir='taken'"], "taken already holds a run"),
    (["hydra.run.dir=${name}", "name=taken"], "taken already holds a run"),
    (["hydra.run.dir="], "hydra.run.dir=: no folder is named"),
    (["hydra.run.dir=''"], "hydra.run.dir=: no folder is named"),
    (["resume=nowhere"], "there is no such folder"),
]


COMMANDS = [  # of esper; the exit code, and what is said
    (["evaluate", "nope"], 2, "nope: no such run in outputs"),
    (["evaluate", "here@nonsense"], 2, "here@nonsense: cannot be read"),
    (["evaluate", "here", "--suite", "nope"], 2, "suite nope: there is no such suite"),
    (["evaluate", "here", "--suite", "defualt"], 2, "did you mean default?"),
    (["audit"], 2, "audit which file?"),
    (["audit", "nothere.pt"], 2, "nothere.pt cannot be read: No such file or directory."),
    (["audit", "--iterative", "nothere.pt"], 2, "nothere.pt cannot be read: No such file or directory."),
    (["audit", "notes.md"], 2, "notes.md is not a sound torch checkpoint: it is text."),
    (["audit", "outputs"], 2, "outputs is a folder"),
    (["convert", "notes.md", "new"], 2, "notes.md is not a sound torch checkpoint: it is text."),
    (["convert", "nothere.pt", "new"], 2, "nothere.pt: No such file or directory"),
    (["convert", "outputs", "new"], 2, "expected a torch file, or a folder with .pt, .pth, .ckpt files in it."),
    (["resume", "here"], 0, "outputs/here: this run has finished, after epoch 3"),
    (["resume", "here", "seed=4"], 2, "a resumed run keeps its configuration"),
    (["clean", "nope"], 2, "nope: no such run in outputs"),
    (["clean", "here", "--finished", "--yes"], 0, "outputs/here"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where one run lies, and beside it a torch that cannot be imported."""
    folder = tmp_path_factory.mktemp("light")
    (folder / "stub" / "torch").mkdir(parents=True)
    (folder / "stub" / "torch" / "__init__.py").write_text("raise ImportError('torch is not to be loaded')\n")
    make_run(folder / "work" / "taken")
    return folder


@pytest.fixture
def place(folder, tmp_path):
    """Where one run has finished, and no file is a torch file."""
    (tmp_path / "notes.md").write_text("# Notes")
    run = make_run(tmp_path / "outputs/here")
    (run / "config.yaml").write_text(yaml.safe_dump(to_plain(compose([]))))
    return tmp_path


def answer(folder, arguments, module="esper.run", work=None):
    environment = os.environ | {"PYTHONPATH": f"{folder / 'stub'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", module, *arguments]
    work = work or folder / "work"
    return subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("arguments", "wanted"), CASES, ids=lambda value: " ".join(value) if value else "")
def test_it_is_answered_in_short_and_nothing_is_written(arguments, wanted, folder):
    done = answer(folder, arguments)
    assert done.returncode == 2, done.stderr
    assert wanted in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) <= 2
    assert [path.name for path in (folder / "work").iterdir()] == ["taken"]


@pytest.mark.alone
@pytest.mark.parametrize("arguments", [["blueprint.names=[zzzz]"], ["slots.names=[x]"], ["hydra.run.dir=taken"]])
def test_it_is_answered_within_a_second(arguments, folder):
    def seconds():
        started = time.perf_counter()
        assert answer(folder, arguments).returncode == 2
        return time.perf_counter() - started

    assert any(seconds() < 1.0 for _ in range(5))  # whatever else the machine is doing


@pytest.mark.parametrize(("arguments", "code", "wanted"), COMMANDS, ids=lambda value: str(value)[:40])
def test_commands_answer_without_it(arguments, code, wanted, folder, place):
    done = answer(folder, arguments, "esper.cli", place)
    assert done.returncode == code, done.stderr
    assert wanted in (done.stderr if code else done.stdout)
    assert len(done.stderr.splitlines()) <= 2


@pytest.mark.alone
@pytest.mark.parametrize("arguments", [COMMANDS[number][0] for number in (0, 1, 2, 5, 9, 12)], ids=" ".join)
def test_commands_answer_within_half_a_second(arguments, folder, place):
    def seconds():
        before = os.times()
        answer(folder, arguments, "esper.cli", place)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert any(seconds() < 0.5 for _ in range(5))  # of the processor's time, whatever else the machine is doing

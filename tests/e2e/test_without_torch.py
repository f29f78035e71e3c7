"""What a name or a folder decides is answered before torch is loaded."""

import os
import subprocess
import sys
import time

import pytest

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
    (["hydra.run.dir=taken"], "taken already holds a run"),
    (["hydra.run.dir='taken'"], "taken already holds a run"),
    (["hydra.run.dir=${name}", "name=taken"], "taken already holds a run"),
    (["hydra.run.dir="], "hydra.run.dir=: no folder is named"),
    (["hydra.run.dir=''"], "hydra.run.dir=: no folder is named"),
    (["resume=nowhere"], "there is no such folder"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where one run lies, and beside it a torch that cannot be imported."""
    folder = tmp_path_factory.mktemp("light")
    (folder / "stub" / "torch").mkdir(parents=True)
    (folder / "stub" / "torch" / "__init__.py").write_text("raise ImportError('torch is not to be loaded')\n")
    make_run(folder / "work" / "taken")
    return folder


def answer(folder, arguments):
    environment = os.environ | {"PYTHONPATH": f"{folder / 'stub'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "esper.run", *arguments]
    return subprocess.run(command, cwd=folder / "work", env=environment, capture_output=True, text=True, timeout=60)


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

"""`esper export`, and the other ways into the command line."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import esper
from esper.cli import main
from esper.run import main as start
from tests.api.conftest import TINY

ROOT = Path(esper.__file__).parents[1]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("export")
    assert main(["run", *TINY, f"hydra.run.dir={root}/outputs/tiny/fbca", "epochs=1"]) == 0
    return root


@pytest.mark.slow
def test_esper_run_is_esper_run(root: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(root)
    assert esper.open_run("fbca").status == "finished"
    for arguments in (["--help"], ["polcy=ppo"], ["-m", "--dry-run", "seed=1,2"], ["resume=none"]):
        answers = []
        for program in (start, lambda given: main(["run", *given])):
            code = program(arguments)
            answers.append((code, *(re.sub(r"[0-9a-f]{8}", "ID", text) for text in capsys.readouterr())))
        assert len({code for code, *_ in answers}) == 1
        assert answers[0][2] == answers[1][2] and answers[0][1].split("\n")[:1] == answers[1][1].split("\n")[:1]


@pytest.mark.slow
def test_the_package_is_a_program(tmp_path: Path) -> None:
    for arguments, told in ((["--version"], f"esper {esper.__version__}\n"), (["runs", "--help"], "usage: esper runs")):
        command = [sys.executable, "-m", "esper", *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=tmp_path, env=environment)
        assert (done.returncode, done.stdout[: len(told)]) == (0, told)


def test_a_file_is_written_and_named(root: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(root)
    assert main(["export", "fbca", "--to", "net.safetensors", "--member", "1"]) == 0
    assert capsys.readouterr().out == "net.safetensors\nnet.py\n"
    before = Path("net.py").read_bytes()
    assert main(["export", "fbca", "--to", "net.safetensors"]) == 2
    assert capsys.readouterr().err == (
        "error: net.safetensors is there already\n  to replace it: --force, from Python force=True\n"
    )
    Path("net.py").write_text("changed")
    assert main(["export", "fbca", "--to", "net.safetensors", "--member", "1", "--force"]) == 0
    assert Path("net.py").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fbcb"], "fbcb: no such run in outputs; did you mean fbca?"),
        (["fbca", "--member", "9"], "there is no member 9; it has 0 to 3"),
        (["fbca", "--to", "net.onx"], "did you mean .onnx?"),
    ],
)
def test_mistakes_are_answered_in_two_lines(arguments, message, root: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(root)
    before = sorted(root.iterdir())
    assert main(["export", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) <= 2
    assert sorted(root.iterdir()) == before
    assert torch.get_num_threads() == 1

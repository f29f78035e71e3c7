"""What is refused on the command line leaves nothing behind."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from esper import run
from esper.forge.__main__ import main

GIVEN = ["size=nano", "telemetry.console=off"]
TEXT = ["phases=[cognate]", "corpus=text", "corpus.train_bytes=9000", "corpus.val_bytes=900", "corpus.test_bytes=900"]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "arguments",
    [
        [*TEXT, "corpus.paths=[phase.txt]"],
        [*TEXT, "corpus.paths=[grown.txt]"],
        [*TEXT, "corpus.paths=[a.json.txt]"],
        [*TEXT, "corpus.paths=[absent.txt]"],
        [*TEXT, "corpus.paths=[short.txt]"],
        ["corpus=text", "corpus.paths=[phase.txt]"],  # one domain, of which no specialists can be merged
        ["tokenizer=absent.json"],
        ["tokenizer=short.txt"],
        ["cognate.trunk=absent"],
        ["phase=bitnet", "input=folder"],
        ["phase=bitnet", "input=short.txt"],
        ["phase=compression", "input=absent"],
        ["hydra.run.dir="],
        ["hydra.run.dir=short.txt"],
        ["bitnet.distil=1"],
    ],
    ids=" ".join,
)
def test_a_refused_command_leaves_nothing(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("phase", "grown", "a.json"):
        Path(f"{name}.txt").write_text("".join(f"{n * n} {n % 7} words\n" for n in range(900)))
    Path("short.txt").write_text("x")
    Path("folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert main([*GIVEN, *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and len(err.splitlines()) <= 2
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
@pytest.mark.parametrize(("program", "small"), [(main, []), (run.main, ["debug=smoke", "engine.kind=sequential"])])
def test_a_package_that_is_missing_leaves_no_folder_that_hydra_has_made(program, small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = ModuleType("wandb")  # what an old ./wandb looks like
    folder.__spec__ = ModuleSpec("wandb", None)
    monkeypatch.setitem(sys.modules, "wandb", folder)
    assert program([*small, "telemetry.console=off", "telemetry.wandb.enabled=true"]) == 2
    assert "the package wandb is not installed" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

"""What a run is read from: there, and nothing that keeps it waiting."""

import os
from pathlib import Path

import pytest

from esper.config.composing import compose
from esper.config.sources import check_sources
from esper.errors import ConfigError

NO = "there is no such file or folder"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("wine.csv").write_text("a,b\n1,2\n")
    Path("photos").mkdir()
    os.mkfifo("pipe.csv")
    return tmp_path


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["task=images", "task.path=photoz"], f"task.path=photoz: {NO}; did you mean photos?"),
        (["task=images", "task.path=/dev/null"], "task.path=/dev/null: it is a device; expected a file or a folder"),
        (["task=arrays", "task.path=[wine.csv,x.npz]"], f"task.path=x.npz: {NO}"),
        (["task=arrays", "task.path=wine.csv/x.npz"], "task.path=wine.csv/x.npz: Not a directory"),
        (["task=arrays", "task.path='~nobody-here/x.npz'"], "task.path=~nobody-here/x.npz: expected a path"),
        (["host=mlp", "task=table", "task.target=b", "task.path=pipe.csv"], "task.path=pipe.csv: it is a FIFO"),
        (["host=mlp", "task=table", "task.target=b", "task.path=./wine.cvs"], "; did you mean wine.csv?"),
        (["experiment=language", "task=text", "task.path=[wine.csv,no.txt]"], f"task.path=no.txt: {NO}"),
        (["experiment=language", "task=corpus", "task.corpus=text", "task.paths=[no.txt]"], f"task.paths=no.txt: {NO}"),
        (["policy=ppo", "policy.load=gone"], f"policy.load=gone: {NO}"),
        (["policy=reinforce", "policy.load=gone"], f"policy.load=gone: {NO}"),
        (["policy=iql", "policy.dataset=[photos,gone]"], f"policy.dataset=gone: {NO}"),
    ],
)
def test_what_is_not_there_is_refused_by_its_key(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_sources(compose(overrides))
    assert said in str(error.value)


def test_what_is_there_is_taken() -> None:
    check_sources(compose(["host=mlp", "task=table", "task.target=b", "task.path=wine.csv"]))
    check_sources(compose(["task=images", "task.path=photos"]))
    check_sources(compose(["policy=iql", "policy.load=some.safetensors"]))  # nothing is learned from


@pytest.mark.parametrize("task", ["digits", "mnist", "cifar10", "pysource"])
def test_what_esper_brings_is_read_from_nothing_of_the_users(task: str) -> None:
    extra = ["experiment=language"] if task == "pysource" else []
    assert not compose([*extra, f"task={task}"]).task.sources

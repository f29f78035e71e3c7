"""What may go, and what stays."""

import errno
import json
import os
from pathlib import Path

import pytest

from esper.checkpoint import RunLock
from esper.cli import main
from esper.files.marks import CONFIG_HEAD
from esper.study.clean import find_removable
from esper.sweep.jobs import JobFile
from tests.study.run_folders import make_run


def keep_checkpoint(folder: Path) -> Path:
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/agent_epoch_5.json").write_text("{}")
    return folder


@pytest.fixture
def root(tmp_path):
    make_run(tmp_path / "finished")
    keep_checkpoint(make_run(tmp_path / "stopped", status="interrupted"))
    make_run(tmp_path / "digits/failed", status="failed")
    make_run(tmp_path / "killed", status="running")
    (tmp_path / "unborn").mkdir()
    (tmp_path / "unborn/run.lock").touch()
    (tmp_path / "unborn/config.yaml").write_text(f"{CONFIG_HEAD}name: x\n")
    (tmp_path / "unborn/.run.json.0123abcd.tmp").touch()
    (tmp_path / "unborn2").mkdir()
    (tmp_path / "unborn2/run.lock").write_text('{"pid": 1, "host": "here", "since": "now"}   ')
    (tmp_path / "unborn2/.config.yaml.0123abcd.tmp").touch()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/run.lock").touch()
    (tmp_path / "kept/notes.txt").touch()
    half = keep_checkpoint(make_run(tmp_path / "half", status="interrupted"))
    (half / ".run.json.0123abcd.tmp").touch()
    (half / "checkpoints/.agent_epoch_9.safetensors.0123abcd.tmp").touch()
    sweep = tmp_path / "digits/sweep-0123abcd"
    make_run(sweep / "0123456789ab")
    keep_checkpoint(make_run(sweep / "0123456789ab.1", status="failed"))
    make_run(sweep / "0123456789ab.2")
    (sweep / "sweep.json").write_text(json.dumps({"jobs": {"0123456789ab": []}}))
    return tmp_path


def found(root: Path, finished: bool = False) -> dict[str, str]:
    return {str(one.folder.relative_to(root)): one.why for one in find_removable(root, finished)}


def test_only_what_came_to_nothing_may_go(root):
    assert found(root) == {
        "digits/failed": "failed, and has no checkpoint to go on from",
        "digits/sweep-0123abcd/0123456789ab.1": "a later attempt replaced it",
        "half": "2 half-written files",
        "killed": "killed, and has no checkpoint to go on from",
        "unborn": "never began",
        "unborn2": "never began",
    }
    assert found(root, finished=True).keys() - found(root).keys() == {"digits/sweep-0123abcd/0123456789ab.2"}


def test_what_a_process_has_stays(root):
    with RunLock(root / "killed"), RunLock(root / "unborn"), RunLock(root / "unborn2"), RunLock(root / "half"):
        assert found(root).keys() == {"digits/failed", "digits/sweep-0123abcd/0123456789ab.1"}


def test_nothing_goes_without_yes(root, capsys):
    before = sorted(root.rglob("*"))
    assert main(["clean", "--root", str(root)]) == 0
    assert "to remove it: the same with --yes" in capsys.readouterr().out
    assert [path for path in sorted(root.rglob("*")) if not path.name.startswith("index.sqlite")] == before


def test_with_yes_it_goes_and_the_rest_stays(root, capsys):
    assert main(["clean", "--root", str(root), "--yes"]) == 0
    assert capsys.readouterr().out.count("removed") == 6
    left = {str(path.parent.relative_to(root)) for path in root.rglob("run.json")}
    assert left == {"finished", "stopped", "half", *(f"digits/sweep-0123abcd/0123456789ab{n}" for n in ("", ".2"))}
    assert (root / "kept/notes.txt").exists()
    assert not (root / "unborn").exists()
    assert not list(root.rglob("*.tmp"))
    assert main(["clean", "--root", str(root)]) == 0
    assert capsys.readouterr().out == f"nothing to clean in {root}\n"


def test_a_finished_run_goes_only_when_it_is_asked_for_twice(root, capsys):
    assert main(["clean", "finished", "--root", str(root), "--yes"]) == 2
    assert "to remove it all the same: --finished" in capsys.readouterr().err
    assert (root / "finished/run.json").exists()
    assert main(["clean", "finished", "stopped", "--root", str(root), "--yes", "--finished"]) == 0
    assert not (root / "finished").exists()
    assert not (root / "stopped").exists()


def test_a_job_that_never_became_a_run_may_go_and_stays_while_it_is_under_way(root, capsys):
    job = JobFile(root / "other/sweep-01/0123456789ab")
    job.begin([])
    (root / "other/sweep-01/sweep.json").write_text('{"jobs": {}}')
    assert "other/sweep-01/0123456789ab" not in found(root)
    assert main(["clean", "other/sweep-01", "--root", str(root), "--yes"]) == 2
    job.end("failed", error="no such slot")
    assert found(root)["other/sweep-01/0123456789ab"] == "failed, and has no checkpoint to go on from"
    assert main(["clean", "other/sweep-01", "--root", str(root), "--yes"]) == 0
    assert not (root / "other/sweep-01").exists()


def test_a_folder_s_name_means_all_of_its_runs(root, capsys):
    assert main(["clean", "sweep-0123abcd", "--root", str(root / "digits")]) == 0
    output = capsys.readouterr().out
    assert "2 finished of 3 runs stay; they go with --finished" in output
    assert output.count("would go") == 1
    assert main(["clean", "digits/sweep-0123abcd", "--root", str(root), "--finished", "--yes"]) == 0
    assert not (root / "digits/sweep-0123abcd").exists()


def test_a_run_that_holds_others_stays(root, capsys):
    make_run(root / "killed/sweep-01/inner")
    assert "killed" not in found(root)
    assert main(["clean", str(root / "killed"), "--root", str(root), "--yes"]) == 2
    assert "other runs lie in it" in capsys.readouterr().err
    assert (root / "killed/sweep-01/inner/run.json").exists()


def test_a_run_under_way_cannot_be_removed(root, capsys):
    with RunLock(root / "killed"):
        assert main(["clean", "killed", "--root", str(root)]) == 2
        output = capsys.readouterr()
        assert "in use by a process and will not go" in output.err
        assert output.out == ""
        assert main(["clean", "killed", "--root", str(root), "--yes"]) == 2
    assert "is in use by process" in capsys.readouterr().err
    assert (root / "killed/run.json").exists()


# Each: what lies in the folder (text for a file, None for a run's lock alone, a status for a run that went wrong).
FOREIGN = {
    "another program's run.json": {"run.json": '{"status": "failed"}', "data.csv": "1"},
    "a run.json of the same schema": {"run.json": '{"schema": 1, "status": "failed"}', "data.csv": "1"},
    "a run.json of another schema": {
        "run.json": '{"schema": 2, "id": "a", "uid": "a", "name": "a", "status": "failed"}',
        "data.csv": "1",
    },
    "a list": {"run.json": "[1, 2]", "data.csv": "1"},
    "no JSON": {"run.json": "nothing", "data.csv": "1"},
    "nested": {"run.json": "[" * 100_000, "data.csv": "1"},
    "another program's job.json": {"job.json": '{"status": "failed"}', "data.csv": "1"},
    "a job.json without anything": {"job.json": "{}", "run.lock": ""},
    "somebody's lock": {"run.lock": "held", "config.yaml": "mine: 1"},
    "somebody's configuration": {"run.lock": "", "config.yaml": "mine: 1"},
    "an attempt by name": {"data.csv": "1"},
}


def everything(root: Path) -> dict[Path, bytes]:
    found = (path for path in root.rglob("*") if path.is_file() or path.is_symlink())
    return {path: b"" if path.is_symlink() else path.read_bytes() for path in found if "index.sqlite" not in path.name}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_not_ours_stays(tmp_path, capsys, name):
    folder = tmp_path / "sweep" / "202611.1"
    folder.mkdir(parents=True)
    (tmp_path / "sweep/sweep.json").write_text('{"jobs": {}}')
    for file, text in FOREIGN[name].items():
        (folder / file).write_text(text)
    before = everything(tmp_path)
    assert main(["clean", "--root", str(tmp_path), "--yes", "--finished"]) == 0
    if {"run.json", "job.json"} & FOREIGN[name].keys():
        assert main(["clean", str(folder), "--root", str(tmp_path), "--yes", "--finished"]) == 2
        assert "nothing here is removed" in capsys.readouterr().err
    assert everything(tmp_path) == before


BESIDE = (
    "notes.txt",
    "src/main.py",
    "checkpoints/best.pt",
    "checkpoints/agent_epoch_1.pt",
    "tensorboard/events.out.tfevents.1700000000.host.1.0",
    "wandb/run-20260101_000000-somebody/files/x",
    "metrics.jsonl.bak",
    ".run.json.swp",
    "wandb.txt",
)
OWN = (
    "events.jsonl",
    "report.html",
    "checkpoints/agent_epoch_5.safetensors",
    "checkpoints/.agent_epoch_6.json.0123abcd.tmp",
    "checkpoints/agent_epoch_5.json.new",
    "tensorboard/events.out.tfevents.1700000000.123456",
    "wandb/offline-run-20260101_000000-killed/files/deep/x",
    ".metrics.jsonl.0123abcd.tmp",
)


@pytest.mark.parametrize("arguments", [[], ["killed"]])
def test_what_lies_beside_a_run_s_own_files_stays_and_is_named(tmp_path, capsys, arguments):
    run = make_run(tmp_path / "killed", status="running")
    for file in (*BESIDE, *OWN):
        (run / file).parent.mkdir(parents=True, exist_ok=True)
        (run / file).write_text(file)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").touch()
    (run / "link").symlink_to(tmp_path / "precious")
    (run / "wandb/latest-run").symlink_to(tmp_path / "precious")
    assert main(["clean", *arguments, "--root", str(tmp_path)]) == 0
    assert "stays  what no run has written there: .run.json.swp, checkpoints/" in capsys.readouterr().out
    assert main(["clean", *arguments, "--root", str(tmp_path), "--yes"]) == 0
    assert "left  what no run has written there: .run.json.swp, checkpoints/" in capsys.readouterr().out
    left = {str(path.relative_to(run)) for path in everything(run)}
    assert left == {*BESIDE, "link"}
    assert (tmp_path / "precious/file").exists()


def test_a_run_that_was_started_in_a_project_leaves_the_project(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(make_run(tmp_path / "project", status="running"))
    Path("train.py").write_text("mine")
    assert main(["clean", ".", "--yes"]) == 0
    assert [path.name for path in Path.cwd().iterdir()] == ["train.py"]


def test_it_works_on_a_full_disk(tmp_path, monkeypatch, root):
    """Neither a lock's signature nor the file of a lock can be written, nor the index."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    create = os.open

    def only_what_is_there(path, flags, *mode):
        return full() if flags & os.O_CREAT and not os.path.exists(path) else create(path, flags, *mode)

    monkeypatch.setattr(os, "pwrite", full)
    monkeypatch.setattr(os, "open", only_what_is_there)
    assert main(["clean", "--root", str(root), "--yes"]) == 0
    assert not (root / "killed").exists()
    assert not (root / "unborn").exists()


EMPTY = ("", " ", "/", ".", "./", "outputs", "outputs/", "..")


@pytest.mark.parametrize("name", EMPTY)
@pytest.mark.parametrize("command", [["clean", "--yes", "--finished"], ["report"], ["evaluate"], ["resume"]])
def test_an_empty_name_is_not_the_only_run(tmp_path, monkeypatch, capsys, command, name):
    make_run(tmp_path / "here/outputs/x/only")
    monkeypatch.chdir(tmp_path / "here")
    before = everything(tmp_path)
    assert main([command[0], name, *command[1:]]) == 2
    said = capsys.readouterr().err
    assert "no run" in said or "all runs lie there" in said
    assert len(said.splitlines()) == 2
    assert everything(tmp_path) == before


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_nothing_to_compare(tmp_path, monkeypatch, capsys, name):
    make_run(tmp_path / "outputs/x/a")
    make_run(tmp_path / "outputs/x/b", policy="static")
    monkeypatch.chdir(tmp_path)
    assert main(["compare", name]) == 2
    assert "an empty name means no run" in capsys.readouterr().err

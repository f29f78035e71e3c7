"""What may go, and what stays."""

import json
from pathlib import Path

import pytest

from esper.checkpoint import RunLock
from esper.cli import main
from esper.study.clean import find_clutter
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
    (tmp_path / "unborn/config.yaml").touch()
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
    return {str(one.folder.relative_to(root)): one.why for one in find_clutter(root, finished)}


def test_only_what_came_to_nothing_may_go(root):
    assert found(root) == {
        "digits/failed": "failed, and has no checkpoint to go on from",
        "digits/sweep-0123abcd/0123456789ab.1": "a later attempt replaced it",
        "half": "2 half-written files",
        "killed": "killed, and has no checkpoint to go on from",
        "unborn": "never began",
    }
    assert found(root, finished=True).keys() - found(root).keys() == {"digits/sweep-0123abcd/0123456789ab.2"}


def test_what_a_process_has_stays(root):
    with RunLock(root / "killed"), RunLock(root / "unborn"), RunLock(root / "half"):
        assert found(root).keys() == {"digits/failed", "digits/sweep-0123abcd/0123456789ab.1"}


def test_nothing_goes_without_yes(root, capsys):
    before = sorted(root.rglob("*"))
    assert main(["clean", "--root", str(root)]) == 0
    assert "to remove it: the same with --yes" in capsys.readouterr().out
    assert [path for path in sorted(root.rglob("*")) if not path.name.startswith("index.sqlite")] == before


def test_with_yes_it_goes_and_the_rest_stays(root, capsys):
    assert main(["clean", "--root", str(root), "--yes"]) == 0
    assert capsys.readouterr().out.count("removed") == 5
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
    (root / "other/sweep-01/sweep.json").write_text("{}")
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

"""The folder of a run: claimed once, owned by one process, and truthful about how the run goes."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from esper.errors import RunError
from esper.rundir import BLOCK_BYTES, RunDirectory

CONFIG = {"name": "trial", "seed": 5, "epochs": 9, "policy": {"name": "static"}}


def stored(path):
    return json.loads((path / "run.json").read_text())


def test_a_new_run_is_queued_with_its_whole_configuration(tmp_path):
    with RunDirectory.create(tmp_path, CONFIG, ["seed=5"]):
        record = stored(tmp_path)
    assert (record["status"], record["epoch"], record["max_epochs"], record["seed"]) == ("queued", 0, 9, 5)
    assert record["overrides"] == ["seed=5"]
    assert record["pid"] == os.getpid()
    assert {"esper", "python", "torch"} <= set(record["versions"])
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == CONFIG


def test_a_folder_is_claimed_once(tmp_path):
    with RunDirectory.create(tmp_path, CONFIG, []):
        pass
    with pytest.raises(RunError, match=f"already holds a run\n.*resume={tmp_path}"):
        RunDirectory.create(tmp_path, CONFIG, [])


def test_the_story_of_a_run_is_kept_through_a_resume(tmp_path):
    with RunDirectory.create(tmp_path, CONFIG, []) as folder:
        folder.start(engine={"kind": "fused"}, epoch=0)
        folder.finish("interrupted", epoch=4)
    first = stored(tmp_path)
    assert first["finished_at"] is not None
    with RunDirectory.reopen(tmp_path) as folder:
        assert folder.record["engine"] == {"kind": "fused"}
        folder.start(epoch=4)
        assert stored(tmp_path)["status"] == "running"
        assert stored(tmp_path)["finished_at"] is None
        folder.finish("finished", summary={"x": 1})
    last = stored(tmp_path)
    assert (last["status"], last["summary"], last["started_at"]) == ("finished", {"x": 1}, first["started_at"])
    assert last["wall_s"] >= first["wall_s"]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"schema": 99}', b"\xff\xfe", b"[" * 5000])
def test_a_damaged_record_is_named(tmp_path, content):
    with RunDirectory.create(tmp_path, CONFIG, []):
        pass
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(RunError, match=r"run\.json cannot be read") as caught:
        RunDirectory.reopen(tmp_path)
    assert len(str(caught.value).splitlines()) <= 2
    with pytest.raises(RunError, match=r"run\.json cannot be read"):  # and not: in use
        RunDirectory.reopen(tmp_path)


def test_a_second_process_is_refused_while_the_first_is_at_work(tmp_path):
    program = f"""
from pathlib import Path
from esper.errors import RunError
from esper.rundir import RunDirectory
try:
    RunDirectory.reopen(Path({str(tmp_path)!r}))
except RunError as error:
    print(error)
"""
    with RunDirectory.create(tmp_path, CONFIG, []):
        refused = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
        assert f"process {os.getpid()}" in refused.stdout
    taken = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (taken.stdout, taken.stderr) == ("", "")


def test_the_beat_is_written_once_a_second_at_most(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("esper.rundir.time.monotonic", lambda: clock[0])
    with RunDirectory.create(tmp_path, CONFIG, []) as folder:
        for epoch in range(1, 9):
            clock[0] += 0.3
            folder.beat(epoch)
        assert stored(tmp_path)["epoch"] == 8 // 4 * 4
        folder.finish("finished")
    assert (stored(tmp_path)["epoch"], stored(tmp_path)["wall_s"]) == (8, pytest.approx(2.4))


def test_that_a_run_failed_can_be_told_on_a_full_disk(tmp_path, monkeypatch):
    from esper.errors import CheckpointError

    def full(path, data):
        raise CheckpointError("the disk is full")

    with RunDirectory.create(tmp_path, CONFIG, []) as folder:
        size = (tmp_path / "run.json").stat().st_size
        monkeypatch.setattr("esper.rundir.write_atomic", full)
        folder.fail("the disk is full")
    assert stored(tmp_path)["status"] == "failed"
    assert (tmp_path / "run.json").stat().st_size == size == BLOCK_BYTES

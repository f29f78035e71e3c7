"""The folder of a run: claimed once, owned by one process, and truthful about how the run goes."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml

from esper.errors import RunError
from esper.runner.directory import RunDirectory

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
        folder.beat(4)
        folder.interrupt()
    first = stored(tmp_path)
    assert first["finished_at"] is not None
    with RunDirectory.reopen(tmp_path) as folder:
        assert folder.record["engine"] == {"kind": "fused"}
        folder.start(epoch=4)
        assert stored(tmp_path)["status"] == "running"
        assert stored(tmp_path)["finished_at"] is None
        folder.finish({"x": 1})
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


@pytest.mark.slow
def test_a_second_process_is_refused_while_the_first_is_at_work(tmp_path):
    program = f"""
from pathlib import Path
from esper.errors import RunError
from esper.runner.directory import RunDirectory
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
    monkeypatch.setattr("esper.runner.directory.time.monotonic", lambda: clock[0])
    with RunDirectory.create(tmp_path, CONFIG, []) as folder:
        for epoch in range(1, 9):
            clock[0] += 0.3
            folder.beat(epoch)
        assert stored(tmp_path)["epoch"] == 8 // 4 * 4
        folder.finish({})
    assert (stored(tmp_path)["epoch"], stored(tmp_path)["wall_s"]) == (8, pytest.approx(2.4))


FULL_DISK = """
import errno, os, resource, sys
from pathlib import Path
from esper.errors import EsperError
from esper.runner.directory import RunDirectory

path, kind = Path(sys.argv[1]) / "run", sys.argv[2]
path.mkdir()
with RunDirectory.create(path, {"name": "trial", "seed": 5, "epochs": 9}, ["x" * 9000]) as folder:
    before = (path / "run.json").read_bytes()
    if kind == "disk":
        with open(path.parent / "filling", "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError as error:
                assert error.errno == errno.ENOSPC
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
    try:
        folder.update(epoch=3)
    except EsperError as error:
        print(error)
    assert (path / "run.json").read_bytes() == before
    folder.fail("no room")
print((path / "run.json").read_text())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "said", "status"), [("disk", "disk is full", "failed"), ("limit", "limit", "queued")])
def test_where_run_json_cannot_be_written_it_stays_as_it_is(tmp_path, kind, said, status):
    """It is larger than a block. On a full disk there is room left to say that the run failed."""
    (tmp_path / "disk").mkdir()
    program = [sys.executable, "-c", FULL_DISK, tmp_path / "disk", kind]
    if kind == "disk":
        mount = 'mount -t tmpfs -o size=128k none "$0" && exec "$@"'
        program = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, tmp_path / "disk", *program]
        if not shutil.which("unshare") or subprocess.run([*program[:7], "true"], capture_output=True).returncode:
            pytest.skip("no disk of its own can be mounted here")
    done = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    told, record = done.stdout.split("\n", 1)
    assert said in told
    assert json.loads(record)["status"] == status


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "report.html"])
def test_a_file_of_somebody_else_is_not_written_over(tmp_path, name):
    (tmp_path / name).write_text("mine: 1\n")
    with pytest.raises(RunError, match=f"a file that a run would write: {name}\n.*a folder of its own"):
        RunDirectory.create(tmp_path, CONFIG, [])
    assert (tmp_path / name).read_text() == "mine: 1\n"


def test_a_start_that_was_killed_is_begun_again(tmp_path):
    with RunDirectory.create(tmp_path, CONFIG, []):
        (tmp_path / "run.json").rename(tmp_path / ".run.json.0123abcd.tmp")
    with RunDirectory.create(tmp_path, CONFIG, []):
        assert stored(tmp_path)["status"] == "queued"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "run.json", "run.lock"]


def test_what_killed_writers_left_goes_and_nothing_else(tmp_path):
    with RunDirectory.create(tmp_path, CONFIG, []):
        pass
    for name in (".run.json.0123abcd.tmp", ".report.html.0123abcd.tmp", ".mine.0123abcd.tmp", "run.json.tmp"):
        (tmp_path / name).touch()
    with RunDirectory.reopen(tmp_path):
        assert sorted(path.name for path in tmp_path.glob("*tmp*")) == [".mine.0123abcd.tmp", "run.json.tmp"]

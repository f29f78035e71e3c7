import errno
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from esper.errors import CheckpointError
from esper.files import sweep_temporaries, write_atomic

FILL_A_DISK = """
import errno, os, sys
from pathlib import Path
import torch
from esper.checkpoint import CheckpointManager
from esper.errors import CheckpointError

class Agent:
    def state(self):
        return {"w": torch.ones(size)}, {}

manager, size = CheckpointManager(sys.argv[1]), 10_000
for epoch in range(3):
    manager.save_checkpoint(Agent(), epoch)
size = 1_000_000
try:
    manager.save_checkpoint(Agent(), 3)
except CheckpointError as error:
    assert error.__cause__.errno in (errno.ENOSPC, errno.EFBIG), error.__cause__
    print(error)
assert manager.list_epochs() == [0, 1, 2] and manager.verify() == [], manager.verify()
assert len(os.listdir(manager.folder)) == 6, os.listdir(manager.folder)
size = 1_000
manager.save_checkpoint(Agent(), 4)
assert manager.load_latest_agent().epoch == 4
"""


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_the_umask_is_honoured(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_atomic(tmp_path / "file", b"content")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def test_content_is_replaced_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_atomic(path, b"a longer first content")
    write_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    assert os.listdir(path.parent) == ["file"]


def test_file_and_folder_are_synced_around_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def noted_replace(source: Path, target: Path) -> None:
        calls.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write_atomic(tmp_path / "file", b"content")
    assert calls == ["file", "rename", "folder"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    write_atomic(tmp_path / "file", b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(CheckpointError, match="disk is full") as caught:
        write_atomic(tmp_path / "file", b"new")
    assert isinstance(caught.value.__cause__, OSError)
    assert str(tmp_path / "file") in str(caught.value)
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_an_interrupt_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == []


def test_what_is_not_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"Cannot write .*file/below"):
        write_atomic(tmp_path / "file" / "below", b"")


def test_sweeping_takes_leftovers_of_the_prefix_only(tmp_path: Path) -> None:
    for name in (".agent_1.json.0a1b.tmp", "agent_1.json", ".other.0a1b.tmp", "agent_notes.tmp"):
        (tmp_path / name).write_bytes(b"")
    sweep_temporaries(tmp_path, "agent_")
    assert sorted(os.listdir(tmp_path)) == [".other.0a1b.tmp", "agent_1.json", "agent_notes.tmp"]


@pytest.mark.slow
def test_a_full_disk_ends_in_an_error_and_spares_earlier_checkpoints(tmp_path: Path) -> None:
    script = tmp_path / "fill.py"
    (disk := tmp_path / "disk").mkdir()
    in_namespace = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mounted = [*in_namespace, 'mount -t tmpfs -o size=1m none "$1" && exec "$2" "$3" "$1"', "-", disk, sys.executable]
    if shutil.which("unshare") and not subprocess.run([*mounted[:-1], "true", "-"], capture_output=True).returncode:
        script.write_text(FILL_A_DISK)
        command, expected = [*mounted, script], "the disk is full"
    else:
        limit = "import resource, signal\nresource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        script.write_text(limit + FILL_A_DISK)
        command, expected = [sys.executable, script, disk], "the file size limit is reached"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert result.returncode == 0, result.stderr
    assert expected in result.stdout
    assert "agent_epoch_3.safetensors" in result.stdout

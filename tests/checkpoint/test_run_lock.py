import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from esper.checkpoint import RunLock
from esper.errors import RunError

HOLD = """
import importlib.util, os, sys, time
spec = importlib.util.spec_from_file_location("run_lock", sys.argv[2])
run_lock = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run_lock)
lock = run_lock.RunLock(sys.argv[1])
lock.acquire()
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
time.sleep(60)
"""


def test_a_second_holder_is_refused_and_the_first_named(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        with pytest.raises(RunError) as caught, RunLock(tmp_path):
            pytest.fail("two holders")
        assert f"{tmp_path} is in use by process {os.getpid()} on {socket.gethostname()} since 20" in str(caught.value)
    with RunLock(tmp_path):
        pass


def test_an_error_inside_gives_the_lock_back(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunLock(tmp_path):
        _ = 1 / 0
    RunLock(tmp_path).acquire()


def test_other_folders_are_free(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with RunLock(tmp_path / "a"), RunLock(tmp_path / "b"):
        assert all((tmp_path / name / "run.lock").read_text() for name in "ab")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"Cannot lock .*gone: No such file or directory"), RunLock(tmp_path / "gone"):
        pass


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": 3}', b"\xff"])
def test_an_unreadable_note_of_the_holder_does_not_matter(tmp_path: Path, content: bytes) -> None:
    with RunLock(tmp_path):
        (tmp_path / "run.lock").write_bytes(content)
        with pytest.raises(RunError, match="in use by another process"):
            RunLock(tmp_path).acquire()


def test_the_lock_dies_with_its_holder_even_where_a_child_lives_on(tmp_path: Path) -> None:
    module = Path(sys.modules[RunLock.__module__].__file__ or "")
    environment = os.environ | {"PYTHONPATH": str(module.parents[2])}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path, module], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert holder.stdout
    child = int(holder.stdout.readline())
    try:
        with pytest.raises(RunError, match=re.escape(f"in use by process {holder.pid} on")):
            RunLock(tmp_path).acquire()
        time.sleep(0.1)  # the child has had time to let go; the holder has not
        with pytest.raises(RunError):
            RunLock(tmp_path).acquire()
        holder.kill()
        holder.wait(timeout=10)
        os.kill(child, 0)  # still there
        with RunLock(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()

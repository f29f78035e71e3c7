"""Writers are killed at random moments; what was saved stays saved."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch import nn

from esper.checkpoint import CheckpointManager, load_checkpoint

KILLS = 30
LONGEST_LIFE_S = 0.04

WriteAndKill = Callable[[str, Path, int, float], int]


@pytest.fixture(scope="module")
def write_and_kill() -> Iterator[WriteAndKill]:
    """Start a writer, kill it so many seconds after its first save, and give the last number it noted as saved."""
    script = Path(__file__).with_name("writer.py")
    environment = os.environ | {"PYTHONPATH": str(script.parents[2])}
    forker = subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert forker.stdin
    assert forker.stdout
    stdin, stdout = forker.stdin, forker.stdout

    def run(mode: str, path: Path, first: int, life_s: float) -> int:
        stdin.write(f"{mode}\t{path}\t{first}\n")
        stdin.flush()
        pid = int(stdout.readline())
        give_up = time.monotonic() + 15
        while last_done(path) < first and time.monotonic() < give_up:
            time.sleep(0.001)
        time.sleep(life_s)
        os.kill(pid, signal.SIGKILL)
        assert stdout.readline() == "dead\n"
        return last_done(path)

    yield run
    stdin.close()
    forker.wait(timeout=10)
    stdout.close()


def last_done(path: Path) -> int:
    done = Path(f"{path}.done")
    return int(done.read_text() or -1) if done.exists() else -1


@pytest.mark.slow
def test_the_newest_sound_checkpoint_always_loads(write_and_kill: WriteAndKill, tmp_path: Path) -> None:
    run_dir, moments = tmp_path / "run", random.Random(0)
    first = 0
    for _ in range(KILLS):
        done = write_and_kill("numbered", run_dir, first, moments.uniform(0, LONGEST_LIFE_S))
        manager = CheckpointManager(run_dir)
        checkpoint = manager.load_latest_agent()
        assert checkpoint.epoch in (done, done + 1)
        assert checkpoint.state == {"number": checkpoint.epoch}
        assert all((tensor == checkpoint.epoch).all() for tensor in checkpoint.tensors.values())
        assert all("no sidecar" in unsound.reason for unsound in checkpoint.skipped)
        first = checkpoint.epoch + 1
    manager.prune(keep_last=1)
    assert {path.suffix for path in manager.folder.iterdir()} == {".json", ".safetensors"}
    assert len(list(manager.folder.iterdir())) == 2


@pytest.mark.slow
def test_a_checkpoint_that_is_overwritten_is_sound_at_every_moment(
    write_and_kill: WriteAndKill, tmp_path: Path
) -> None:
    path, moments = tmp_path / "best", random.Random(1)
    first = 0
    for _ in range(KILLS):
        done = write_and_kill("over", path, first, moments.uniform(0, LONGEST_LIFE_S))
        model = nn.Linear(64, 64)
        number = load_checkpoint(model, path)["metadata"]["number"]
        assert number in (done, done + 1)
        assert all((parameter == number).all() for parameter in model.parameters())
        first = number + 1

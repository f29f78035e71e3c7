"""One run over several processes that torchrun starts."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.e2e.conftest import TIMEOUT_S, CommandLine, environment, last_epoch, lines, record_of

RUN = (
    "task.distortion=none", "task.image_size=8", "host.channels=[2,2]", "slots=early_late", "epochs=4",
    "engine=fused", "engine.members=3", "engine.threads=1", "engine.precision=float64", "checkpoint.every_epochs=1",
    "policy=ppo", "policy.updates=3", "policy.members=4", "policy.warmup_updates=0", "policy.validate_every=2",
    "policy.validation_episodes=3",
)  # fmt: skip
TIMES = ("wall_s", "collect_s", "update_s", "validation_s", "train_s", "counterfactual_s", "samples_per_s")
TIMES += ("host_epochs_per_s", "references_s")


def start(folder: Path, world: int, *arguments: str) -> subprocess.Popen:
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    return subprocess.Popen(
        [sys.executable, "-m", *torchrun, "-m", "esper.run", *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def process_of(rank: int, launcher: subprocess.Popen) -> int:
    """The process that torchrun started for this rank."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    named = [pid for pid in children if f"\0RANK={rank}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes()]
    return int(named[0])


def wait_until(happened, launcher: subprocess.Popen) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not happened():
        assert launcher.poll() is None, launcher.communicate()
        assert time.monotonic() < deadline, "the run is too slow"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The run in one process."""
    command_line = CommandLine(tmp_path_factory.mktemp("alone"))
    done = command_line.run_here(*RUN, "hydra.run.dir=run")
    assert done.code == 0, done.err
    return command_line.folder / "run"


def check_alike(run_dir: Path, alone: Path) -> None:
    """Everything that a run leaves behind, but for times: the same as of one process."""
    assert record_of(run_dir)["status"] == "finished"
    for name in ("learning.jsonl", "metrics.jsonl"):
        ours, expected = lines(run_dir / name), lines(alone / name)
        assert len(ours) == len(expected) > 2
        for one, other in zip(ours, expected, strict=True):
            near(without_times(one), without_times(other))
    told = [[(e["type"], e["member"], e["slot"]) for e in lines(d / "events.jsonl")] for d in (run_dir, alone)]
    ours, expected = ([e for e in of_run if not e[0].startswith(("run_", "checkpoint"))] for of_run in told)
    assert ours == expected
    kept, wanted = (load_file(d / "checkpoints" / "agent_epoch_7.safetensors") for d in (run_dir, alone))
    assert kept.keys() == wanted.keys()
    assert all(kept[name].shape == wanted[name].shape for name in wanted)


def without_times(record: dict) -> dict:
    return {key: value for key, value in record.items() if key not in TIMES}


def near(one, other) -> None:
    """Equal but for rounding: the policy's own numbers are float32."""
    if isinstance(other, dict):
        assert one.keys() == other.keys()
        for key in other:
            near(one[key], other[key])
    elif isinstance(other, list):
        assert len(one) == len(other)
        for each in zip(one, other, strict=True):
            near(*each)
    else:
        assert one == (pytest.approx(other, rel=1e-3, abs=1e-4) if isinstance(other, float) else other)


def test_stopped_and_killed_it_ends_as_in_one_process(alone, tmp_path) -> None:
    """By two processes, then three, then one."""
    run_dir = tmp_path / "run"
    launcher = start(tmp_path, 2, *RUN, "hydra.run.dir=run")
    wait_until(lambda: len(lines(run_dir / "learning.jsonl")) >= 1, launcher)
    launcher.send_signal(signal.SIGINT)
    out, err = launcher.communicate(timeout=TIMEOUT_S)
    record = record_of(run_dir)
    assert (record["status"], record["ranks"]) == ("interrupted", 2), err
    assert out.count("interrupted after update") == out.count("resume=run") == 1, "one rank speaks"

    launcher = start(tmp_path, 3, "resume=run")
    wait_until(lambda: last_epoch(run_dir) >= 1, launcher)
    os.kill(process_of(1, launcher), signal.SIGKILL)
    out, err = launcher.communicate(timeout=TIMEOUT_S)
    record = record_of(run_dir)
    assert (record["status"], record["ranks"], launcher.returncode) == ("failed", 3, 1)
    assert "a process of this run has gone" in record["error"]
    assert err.count("error: ") == err.count("resume=run") == 1

    done = CommandLine(tmp_path).run_here("resume=run")
    assert done.code == 0, done.err
    assert [path.name for path in tmp_path.iterdir()] == ["run"], "one rank writes"
    check_alike(run_dir, alone)


def test_what_rank_0_alone_meets_with_ends_all(alone, tmp_path) -> None:
    run_dir = shutil.copytree(alone, tmp_path / "run")
    (run_dir / "run.json").write_text(json.dumps(record_of(run_dir) | {"status": "interrupted"}))
    for file in run_dir.glob("checkpoints/*.safetensors"):
        file.write_bytes(b"damaged")
    launcher = start(tmp_path, 2, "resume=run")
    _, err = launcher.communicate(timeout=TIMEOUT_S)
    assert launcher.returncode == 1 and err.count("error: ") == 1, err

"""`hydra/launcher=fused`: one program, and every job has what it would have had by itself."""

import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from tests.e2e.conftest import TIMEOUT_S, last_epoch, lines, record_of

SMALL = ["epochs=8", "engine.threads=1", "slots=early_late", "task.image_size=8", "host.channels=[2,4]"]
QUICK = ["policy.first_plant_epoch=1", "gates=permissive", "checkpoint.every_epochs=2", "engine.precision=float64"]
FUSED = ["-m", "hydra/launcher=fused", "hydra.sweep.dir=swept", *SMALL, *QUICK, "engine.members=2"]


def runs_of(folder):
    """Overrides -> folder of each job of a sweep."""
    return {tuple(record_of(file.parent)["overrides"]): file.parent for file in folder.glob("*/run.json")}


def figures(run_dir):
    """Every member's losses, epoch by epoch."""
    epochs = [[(m["train_loss"], m["val_loss"]) for m in line["members"]] for line in lines(run_dir / "metrics.jsonl")]
    return torch.tensor(epochs[1:], dtype=torch.float64)


def happened(run_dir):
    shown = ("type", "epoch", "member", "slot", "seed", "message")
    return [[line.get(key) for key in shown] for line in lines(run_dir / "events.jsonl")]


def weights(run_dir):
    return load_file(max(run_dir.glob("checkpoints/*.safetensors"), key=lambda file: file.stat().st_mtime_ns))


def test_every_job_has_what_it_would_have_alone(esper):
    swept = ["seed=0,1", "optimizer.learning_rate=0.05,0.02"]
    done = esper.run_here(*FUSED, *swept)
    assert done.code == 0, done.err
    jobs = runs_of(esper.folder / "swept")
    assert len(jobs) == 4
    for overrides, folder in jobs.items():
        record = record_of(folder)
        assert record["status"] == "finished" and (folder / "config.yaml").exists()
        alone = esper.folder / "alone" / folder.name
        assert esper.run_here(*overrides, f"hydra.run.dir={alone}", "engine=fused").code == 0
        torch.testing.assert_close(figures(folder), figures(alone), rtol=1e-9, atol=0)
        assert happened(folder) == happened(alone)
        mine, own = weights(folder), weights(alone)
        assert mine.keys() == own.keys()
        for name, tensor in mine.items():
            torch.testing.assert_close(tensor, own[name], rtol=1e-9, atol=1e-12)
        assert record["summary"]["grown"] == record_of(alone)["summary"]["grown"]


def test_a_job_that_cannot_be_built_fails_alone_and_what_does_not_fit_runs_by_itself(esper):
    done = esper.run_here(*FUSED, "policy.preferred_blueprints=[conv_light],[conv_lite]", "engine.members=1,2")
    statuses = {overrides: record_of(folder)["status"] for overrides, folder in runs_of(esper.folder / "swept").items()}
    assert done.code == 1 and set(statuses.values()) == {"finished"} and len(statuses) == 2
    assert "did you mean 'conv_light'" in done.out + done.err
    wide = esper.run_here(*FUSED, "engine.members=1,2", "batch_size=32,64", "epochs=2", "hydra.sweep.dir=wide")
    assert wide.code == 0 and len(runs_of(esper.folder / "wide")) == 4  # two populations


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_was_stopped_goes_on_from_its_checkpoints(esper, by):
    command = [*FUSED, "seed=0,1,2"]
    assert esper.run_here(*command, "hydra.sweep.dir=whole").code == 0
    process = esper.start(*command)
    deadline = time.monotonic() + TIMEOUT_S
    while process.poll() is None and min(map(last_epoch, runs_of(esper.folder / "swept").values()), default=-1) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(by)
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == (-signal.SIGKILL if by == signal.SIGKILL else 130)
    assert "finished" not in {record_of(folder)["status"] for folder in runs_of(esper.folder / "swept").values()}
    done = esper.run_here(*command)
    assert done.code == 0, done.err
    whole = runs_of(esper.folder / "whole")
    for overrides, folder in runs_of(esper.folder / "swept").items():
        assert any(line["type"] == "run_resumed" for line in lines(folder / "events.jsonl"))
        torch.testing.assert_close(figures(folder), figures(whole[overrides]), rtol=1e-9, atol=0)
    again = esper.run_here(*command)
    assert again.code == 0 and "0 to run" in again.out

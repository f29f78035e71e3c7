"""Numbers to predict, from the command line to an evaluation."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from esper.cli import main
from esper.run import main as run
from tests.e2e.conftest import TIMEOUT_S, lines, record_of
from tests.e2e.test_torchrun import near, start

LEARNING = ["policy=ppo", "policy.updates=2", "policy.members=3", "policy.warmup_updates=0"]
LEARNING += ["policy.validate_every=1", "policy.validation_episodes=2"]
ALL_KEPT = ["checkpoint.every_epochs=1", "checkpoint.keep_last=9", "telemetry.report=false", "telemetry.console=off"]
SMALL = ["engine.members=3", "engine.threads=1", "epochs=4", "host.channels=[3,4]", "slots=early", "batch_size=16"]


def write_numbers(folder):
    """Images whose mean and brightest pixel are to be predicted."""
    x = np.random.default_rng(0).normal(size=(120, 1, 8, 8)).astype(np.float32)
    y = 30 + 4 * np.stack([x.mean((1, 2, 3)), x[:, 0].max((1, 2))], 1)
    np.savez(folder / "numbers.npz", x=x, y=y)
    return ["task=arrays", f"task.path={folder / 'numbers.npz'}", "task.loss=mse"]


def as_killed(whole, copy, newest):
    """A copy of the run as if it had been killed after this checkpoint."""
    shutil.copytree(whole, copy)
    (copy / "run.json").write_text((copy / "run.json").read_text().replace('"finished"', '"running"'))
    for path in copy.glob("checkpoints/*"):
        if int(path.stem.rpartition("_")[2]) > newest:
            path.unlink()
    return copy


def kept(folder):
    """The last checkpoint's tensors, and what members came to epoch by epoch."""
    newest = max(folder.glob("checkpoints/*.safetensors"), key=lambda path: int(path.stem.rpartition("_")[2]))
    return load_file(newest), [line["members"] for line in lines(folder / "metrics.jsonl")]


def assert_same(one, other):
    assert record_of(one)["status"] == record_of(other)["status"] == "finished"
    (mine, told), (own, expected) = kept(one), kept(other)
    assert told == expected and mine.keys() == own.keys()
    assert all(mine[name].equal(own[name]) for name in own)
    assert record_of(one)["summary"]["grown"] == record_of(other)["summary"]["grown"]


@pytest.mark.slow
@pytest.mark.parametrize("policy", [["policy=random", "policy.act_probability=1"], LEARNING], ids=["random", "ppo"])
def test_it_resumes_bit_for_bit_wherever_inputs_are_kept_then(tmp_path, policy):
    arguments = [*SMALL, *ALL_KEPT, *write_numbers(tmp_path), *policy, "engine=sequential"]
    fixed = ["engine.memory_format=contiguous", "task.keep=disk"]
    assert run([*arguments, *fixed, f"hydra.run.dir={tmp_path / 'whole'}"]) == 0
    last = max(int(path.stem.rpartition("_")[2]) for path in tmp_path.glob("whole/checkpoints/*.json"))
    for newest, keep in ((1, "disk"), (last - 1, "device")):
        again = as_killed(tmp_path / "whole", tmp_path / keep, newest)
        config = again / "config.yaml"
        config.write_text(config.read_text().replace("keep: disk", f"keep: {keep}"))
        assert run([f"resume={again}", *([] if keep == "disk" else [f"task.keep={keep}"])]) == 0
        assert_same(again, tmp_path / "whole")


@pytest.mark.slow
def test_jobs_of_a_fused_sweep_are_what_each_is_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = [*SMALL, *ALL_KEPT, *write_numbers(tmp_path), "engine=fused", "engine.precision=float64"]
    assert (
        run(["-m", "hydra/launcher=fused", "hydra.sweep.dir=swept", *common, "optimizer.learning_rate=0.05,0.02"]) == 0
    )
    jobs = list(tmp_path.glob("swept/*/run.json"))
    assert len(jobs) == 2
    for path in jobs:
        alone = tmp_path / "alone" / path.parent.name
        assert run([*record_of(path.parent)["overrides"], f"hydra.run.dir={alone}"]) == 0
        (mine, _), (own, _) = kept(path.parent), kept(alone)
        for name, tensor in own.items():
            torch.testing.assert_close(mine[name], tensor, rtol=1e-9, atol=1e-12)
        ours, expected = (record_of(folder)["summary"]["grown"] for folder in (path.parent, alone))
        assert ours["test_rmse"] == pytest.approx(expected["test_rmse"], rel=1e-9)
        assert record_of(path.parent)["targets"] == record_of(alone)["targets"]


@pytest.mark.slow
def test_two_processes_are_as_one(tmp_path):
    arguments = [*SMALL, *ALL_KEPT, *write_numbers(tmp_path), *LEARNING, "engine=fused", "engine.precision=float64"]
    assert run([*arguments, f"hydra.run.dir={tmp_path / 'alone'}"]) == 0
    launcher = start(tmp_path, 2, *arguments, "hydra.run.dir=shared")
    _, err = launcher.communicate(timeout=TIMEOUT_S)
    assert launcher.returncode == 0, err
    assert record_of(tmp_path / "shared")["ranks"] == 2
    (_, ours), (_, expected) = kept(tmp_path / "shared"), kept(tmp_path / "alone")
    near(ours, expected)
    near(*(record_of(tmp_path / name)["summary"]["grown"] for name in ("shared", "alone")))


@pytest.mark.slow
def test_a_regression_is_run_and_evaluated(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = [*SMALL, *write_numbers(tmp_path), "task.keep=disk"]
    assert run([*arguments, "telemetry.console=plain", "hydra.run.dir=a"]) == 0
    shown = capsys.readouterr().out
    assert "grown R-squared" in shown and "test R-squared" in shown and "test RMSE" in shown and "accuracy" not in shown
    record = json.loads(Path("a/run.json").read_text())
    assert record["targets"]["mean"][0] == pytest.approx(30, abs=0.5) and len(record["targets"]["std"]) == 2
    assert record["summary"]["grown"].keys() >= {"test_r2", "test_rmse", "val_r2"}
    assert main(["evaluate", "a@best:val_r2", "--seeds", "2"]) == 0
    assert "test R-squared" in capsys.readouterr().out

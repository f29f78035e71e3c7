"""Numbers to predict, from the command line to an evaluation."""

import json
from pathlib import Path

import numpy as np
import pytest

from esper.cli import main
from esper.run import main as run

SMALL = ["engine.members=3", "engine.threads=1", "epochs=4", "host.channels=[3,4]", "slots=early", "batch_size=16"]


@pytest.mark.slow
def test_a_regression_is_run_and_evaluated(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(120, 1, 8, 8)).astype(np.float32)
    np.savez("numbers.npz", x=x, y=30 + 4 * np.stack([x.mean((1, 2, 3)), x[:, 0].max((1, 2))], 1))
    arguments = [*SMALL, "task=arrays", "task.path=numbers.npz", "task.loss=mse", "task.keep=disk"]
    assert run([*arguments, "telemetry.console=plain", "hydra.run.dir=a"]) == 0
    shown = capsys.readouterr().out
    assert "grown R-squared" in shown and "test R-squared" in shown and "test RMSE" in shown and "accuracy" not in shown
    record = json.loads(Path("a/run.json").read_text())
    assert record["targets"]["mean"][0] == pytest.approx(30, abs=0.5) and len(record["targets"]["std"]) == 2
    assert record["summary"]["grown"].keys() >= {"test_r2", "test_rmse", "val_r2"}
    assert main(["evaluate", "a@best:val_r2", "--seeds", "2"]) == 0
    assert "test R-squared" in capsys.readouterr().out

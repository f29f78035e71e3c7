"""A grown network comes out of its run as it was."""

import json

import pytest
import torch

import esper
from esper.config import compose
from esper.errors import ConfigError, EsperError, RunError
from esper.run import main
from esper.tasks import build_task

OVERRIDES = ["debug=smoke", "policy=random", "policy.act_probability=1.0", "gates=permissive", "epochs=4"]


@pytest.mark.slow
def test_a_loaded_member_scores_what_its_run_reported(tmp_path, capsys):
    path = tmp_path / "run"
    assert main([*OVERRIDES, f"hydra.run.dir={path}"]) == 0
    summary = json.loads((path / "run.json").read_text())["summary"]
    task = build_task(compose(OVERRIDES).task)
    for member, expected in enumerate(summary["grown"]["test_accuracy"]):
        model = esper.load_member(path, member)
        with torch.no_grad():
            accuracy = 100.0 * (model(task.test_x).argmax(1) == task.test_y).double().mean().item()
        assert accuracy == pytest.approx(expected, abs=0.2)  # float32, another order of summation
        assert sum(p.numel() for p in model.parameters()) >= summary["grown"]["parameters"][member]


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(RunError, match=r"expected the folder of a run"):
        esper.load_member(tmp_path)


@pytest.mark.parametrize("value", ["x", "0", -1, 1.0, True, [0], float("nan")], ids=str)
@pytest.mark.parametrize("name", ["member", "epoch"])
def test_arguments_are_judged_before_any_checkpoint_is(tmp_path, name, value):
    with pytest.raises(ConfigError, match=rf"^{name}=.*a whole number, 0 or more"):
        esper.load_member(tmp_path, **{name: value})


@pytest.mark.parametrize("folder", [None, 3, ["run"], b"run"], ids=str)
def test_what_is_no_folder_is_said(folder):
    with pytest.raises(EsperError, match="load_member: expected the folder of a run"):
        esper.load_member(folder)

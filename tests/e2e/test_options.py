"""Every option that is shipped runs for two epochs."""

import pytest

from esper.config.composing import compose
from esper.config.options import groups
from esper.runner.launch import start
from esper.runner.spec import RunSpec
from tests.e2e.conftest import record_of
from tests.options import chosen
from tests.own_data import made

SHORT = ["debug=smoke", "epochs=2", "engine.members=1", "engine.threads=1", "telemetry.report=false"]
OPTIONS = [(group, option) for group, options in groups().items() for option in options]


def run(path, overrides):
    """A run to its end; its record."""
    path.mkdir()
    assert start(RunSpec(compose(overrides), path, overrides)) == 0
    return record_of(path)


@pytest.mark.fast
@pytest.mark.sampled(1)
@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_two_epochs(group, option, tmp_path):
    overrides = [*SHORT, *chosen(group, option)]
    if option == "text":
        overrides.append(f"task.path={__file__}")
    if {"host=transformer", "host=decoder"} & set(overrides) or option == "language":
        overrides += ["task.epoch_windows=32", "task.train_bytes=8000", "task.val_bytes=2000", "task.test_bytes=2000"]
    if group == "task":
        overrides += made(option, tmp_path)
    learns = option in ("ppo", "reinforce", "marathon")
    if learns:
        overrides += ["policy.updates=1", "policy.members=2", "policy.validate_every=0"]
    if option == "iql":
        run(tmp_path / "data", SHORT)
        overrides += [f"policy.dataset=[{tmp_path / 'data'}]", "policy.steps=1"]
    if group == "telemetry":
        overrides.remove("telemetry.report=false")
    path = tmp_path / "run"
    record = run(path, overrides)
    assert (record["status"], record["epoch"]) == ("finished", 2)
    assert (path / "checkpoints" / f"agent_epoch_{2 + record['update']}.safetensors").exists()
    assert (record["update"] == 1) == (learns or option == "iql")
    assert (path / "metrics.jsonl").exists() == (option != "none")
    assert (path / "report.html").exists() == (group == "telemetry" and option != "none")


def test_the_engines_agree_on_what_happens(tmp_path):
    """One epoch alike: the fused program and the plain reference, through the whole front door."""
    accuracies = {}
    for kind in ("fused", "sequential"):
        overrides = [*SHORT, f"engine={kind}", "engine.precision=float64", "telemetry=none", "policy=scheduled"]
        accuracies[kind] = run(tmp_path / kind, overrides)["summary"]["grown"]["val_accuracy"]
    assert accuracies["fused"] == accuracies["sequential"]

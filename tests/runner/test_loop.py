"""Several runs brought to their ends as one program: what goes wrong with one is its own."""

import json
from pathlib import Path

import numpy as np
import pytest

from esper.config import compose
from esper.runner import run as running
from esper.runner.launch import run_many
from esper.runner.spec import RunSpec
from tests.e2e.conftest import record_of

EPOCHS = 3
OVERRIDES = (
    "policy=static",
    "task.image_size=8",
    "host.channels=[2,4]",
    "slots=early_late",
    f"epochs={EPOCHS}",
    "engine=fused",
)
OVERRIDES += ("engine.members=1", "controls=[]", "engine.threads=1", "checkpoint.every_epochs=1")
OVERRIDES += ("telemetry.report=false",)


def planned(folder: Path, *seeds: int) -> list[RunSpec]:
    for seed in seeds:
        (folder / str(seed)).mkdir(parents=True, exist_ok=True)
    return [RunSpec(compose([*OVERRIDES, f"seed={s}"]), folder / str(s), [f"seed={s}"]) for s in seeds]


def lose_checkpoints(run_dir: Path, after: int) -> None:
    """As if the run had been killed at that epoch."""
    for file in run_dir.glob("checkpoints/*"):
        if int(file.stem.rpartition("_")[2]) > after:
            file.unlink()
    (run_dir / "run.json").write_text(json.dumps(record_of(run_dir) | {"status": "running", "summary": None}))


@pytest.mark.slow
def test_a_run_that_stands_elsewhere_is_left_out(tmp_path: Path) -> None:
    plans = planned(tmp_path, 0, 1, 2)
    assert [outcome.code for outcome in run_many(plans)] == [0, 0, 0]
    for plan, epoch in zip(plans, (1, 2, 2), strict=True):
        lose_checkpoints(plan.path, epoch)
    first, *others = run_many(plans)
    assert first.code == 2 and "its checkpoint is of epoch 1, and those beside it are of 2" in str(first.error)
    assert [(other.code, other.record["status"], other.record["epoch"]) for other in others] == [
        (0, "finished", EPOCHS)
    ] * 2


@pytest.mark.slow
def test_a_run_that_fails_on_its_way_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build_policy(config, grown, is_resumed):
        controller, learning = build(config, grown, is_resumed)
        if config.seed == 0:
            controller.act = lambda reports: reports[len(reports)]
        return controller, learning

    build = running.build_policy
    monkeypatch.setattr(running, "build_policy", build_policy)
    bad, good = run_many(planned(tmp_path, 0, 1))
    assert bad.code == 1 and isinstance(bad.error, IndexError) and bad.record["error"].startswith("IndexError: ")
    assert (good.code, good.record["status"]) == (0, "finished")
    assert [outcome.code for outcome in run_many(planned(tmp_path / "all", 0))] == [1]


def test_what_runs_note_of_their_data_is_said_once_whoever_has_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "own.npz", x=np.arange(60.0).reshape(30, 2), y=np.arange(30) % 2)
    own = ["task=arrays", f"task.path={tmp_path / 'own.npz'}", "host=mlp", "batch_size=8", "epochs=1", *OVERRIDES[4:]]
    own = [word for word in own if word != f"epochs={EPOCHS}"]
    specs = []
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        specs.append(RunSpec(compose([*own, "policy=static", f"seed={seed}"]), tmp_path / str(seed), []))
    assert [outcome.code for outcome in run_many(specs)] == [0, 0]
    assert capfd.readouterr().err.count("kept apart from the training data by split_seed=0\n") == 1

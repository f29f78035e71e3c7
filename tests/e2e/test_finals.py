"""Runs with final networks as controls: figures, kills in the middle of them, sweeps, other scores."""

import signal
import time

import pytest

from tests.e2e.conftest import TIMEOUT_S, lines, record_of
from tests.e2e.test_resume import unfinished, what_happened

EPOCHS = 4
SMALL = ["engine.members=3", "engine.threads=1", "host.channels=[2,3]", "slots=early_late", f"epochs={EPOCHS}"]
SMALL += ["engine=fused", "gates=permissive", "telemetry.report=false"]
IMAGES = ["task.image_size=8", "task.distortion=none"]
GROWING = ["policy=random", "policy.act_probability=0.8", "slots.blending_epochs=1"]
SAVED = ["checkpoint.every_epochs=1", "checkpoint.keep_last=99"]
ALL = "controls=[twin,final,final_epochs]"
TIMES = {"wall_s"}


def checkpoints(run_dir):
    return sorted(int(file.stem.rpartition("_")[2]) for file in run_dir.glob("checkpoints/*.json"))


def summary_of(run_dir):
    return {name: value for name, value in record_of(run_dir)["summary"].items() if name not in TIMES}


@pytest.mark.slow
def test_killed_at_any_epoch_of_them_it_ends_where_it_would_have(esper):
    done = esper.run_here(*SMALL, *IMAGES, *GROWING, *SAVED, ALL, "hydra.run.dir=whole")
    assert done.code == 0, done.err
    whole = esper.folder / "whole"
    summary = summary_of(whole)
    assert {"twin", "final", "final_epochs"} <= summary.keys()
    for control in ("final", "final_epochs"):
        assert summary[control].keys() == summary["grown"].keys()
        assert summary[f"{control}_difference"].keys() == summary["difference"].keys()
    assert summary["final"]["val_accuracy"] != summary["grown"]["val_accuracy"], "they are networks of their own"
    assert summary["final"]["training_flops"] == pytest.approx(summary["grown"]["training_flops"], rel=0.05)
    assert len({*summary["grown"]["training_flops"]}) == 3, "so that none has another's"
    last = checkpoints(whole)[-1]
    assert last > EPOCHS + 2, "what was trained of them is saved"
    assert lines(whole / "metrics.jsonl")[-1]["epoch"] == record_of(whole)["epoch"] == EPOCHS
    told = [line for line in lines(whole / "events.jsonl") if line["type"] == "final_trained"]
    assert [line["data"]["trained"] for line in told] == list(range(1, last - EPOCHS + 1))
    for number in (EPOCHS, EPOCHS + 2, last):
        copy = unfinished(whole, esper.folder / f"from_{number}", number)
        done = esper.run_here(f"resume={copy}")
        assert done.code == 0, done.err
        again = "final networks from scratch: epoch {} of"
        assert again.format(max(number - EPOCHS, 0)) not in done.out, "what was saved is not trained again"
        assert number == last or again.format(number - EPOCHS + 1) in done.out
        assert summary_of(copy) == summary
        assert what_happened(copy) == what_happened(whole)
        name = f"checkpoints/agent_epoch_{last}.safetensors"
        assert (copy / name).read_bytes() == (whole / name).read_bytes()
    longer = unfinished(whole, esper.folder / "longer", EPOCHS + 2)
    config = longer / "config.yaml"
    config.write_text(config.read_text().replace(f"epochs: {EPOCHS}\n", "epochs: 9\n"))
    refused = esper.run_here("resume=longer", "epochs=9")
    assert refused.code == 2 and "epochs=9: the run has grown for its 4 epochs" in refused.err
    assert len(refused.err.splitlines()) == 2


@pytest.mark.slow
def test_ctrl_c_lets_an_epoch_of_them_end(esper):
    process = esper.start(
        *SMALL, *IMAGES, *GROWING, "controls=[final_epochs]", "epochs=10", "engine.members=1", "hydra.run.dir=run"
    )
    deadline = time.monotonic() + TIMEOUT_S
    events = esper.folder / "run" / "events.jsonl"
    while process.poll() is None and not any(line["type"] == "final_trained" for line in lines(events)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130, err
    assert "of its final networks; to continue:" in out
    assert esper.run_here("resume=run").code == 0
    assert record_of(esper.folder / "run")["status"] == "finished"


@pytest.mark.slow
def test_in_a_fused_sweep_each_job_has_its_own(esper):
    swept = [*SMALL, *IMAGES, *GROWING, "engine.precision=float64", "engine.members=2"]
    done = esper.run_here("-m", *swept, "controls=[final]", "seed=0,1", "hydra/launcher=fused", "hydra.sweep.dir=swept")
    assert done.code == 0, done.err
    for file in (esper.folder / "swept").glob("*/run.json"):
        record = record_of(file.parent)
        assert esper.run_here(*swept, *record["overrides"], f"hydra.run.dir=alone_{record['seed']}").code == 0
        alone = esper.folder / f"alone_{record['seed']}"
        assert record["together"] == 2 and record["summary"]["final"] == record_of(alone)["summary"]["final"]
        assert checkpoints(file.parent) == checkpoints(alone)


TEXT = [
    "experiment=language",
    "debug=smoke",
    "engine=fused",
    "engine.threads=1",
    "task.epoch_windows=64",
    "task.block_size=8",
    "task.train_bytes=9000",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "figure"),
    [([*SMALL, *IMAGES, "policy=static"], "test_accuracy"), ([*TEXT, "epochs=2"], "test_bits_per_byte")],
    ids=["nobody grew", "text"],
)
def test_one_that_never_grew_has_its_own_figures(esper, overrides, figure):
    done = esper.run_here(*overrides, "telemetry.report=false", "controls=[final]", "hydra.run.dir=run")
    assert done.code == 0, done.err
    summary = summary_of(esper.folder / "run")
    assert summary["twin"] is None and summary["final"][figure] == summary["grown"][figure]
    assert summary["final_difference"][figure]["mean"] == 0.0


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("controls=[twins]", "did you mean twin"),
        ("controls=[final,final]", "each of them once"),
        ("controls=final", "expected a list"),
    ],
)
def test_bad_controls_are_refused(esper, override, said):
    done = esper.run_here(override)
    assert done.code == 2 and said in done.err and len(done.err.splitlines()) <= 2

"""Killed at any moment and resumed, a run ends bit for bit where it would have ended."""

import random
import resource
import shutil

import pytest
from safetensors.torch import load_file

from tests.e2e.conftest import last_epoch, lines, record_of

EPOCHS = 9
# Seeds are planted, trained, blended by a gate, fossilised and culled within a few epochs, so that kills meet them all.
GROWING = (
    "policy=scheduled",
    "policy.blend=gated",
    "policy.blueprints=[conv_light,norm,attention]",
    "policy.plant_epochs=[1,1,1]",
    "policy.blend_epochs=[3,4,5]",
    "policy.fossilize_epochs=[6,7,8]",
    "gates=permissive",
    "slots.blending_epochs=2",
    f"epochs={EPOCHS}",
    "engine.members=2",
    "engine.threads=1",
    "optimizer=adamw",
    "checkpoint.every_epochs=2",
    "telemetry.report=false",
)
INTERRUPTIONS = ("run_resumed", "run_finished", "checkpoint_saved")
TIMES = ("wall_s", "train_s", "validation_s", "counterfactual_s", "samples_per_s", "host_epochs_per_s")


def what_happened(run_dir):
    """All that a run records but for wall times and the interruptions themselves."""
    metrics = [
        {key: value for key, value in line.items() if key not in TIMES} for line in lines(run_dir / "metrics.jsonl")
    ]
    events = [line for line in lines(run_dir / "events.jsonl") if line["type"] not in INTERRUPTIONS]
    return metrics, events


def final_tensors(run_dir):
    return load_file(run_dir / "checkpoints" / f"agent_epoch_{EPOCHS}.safetensors")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    from tests.e2e.conftest import CommandLine

    command_line = CommandLine(tmp_path_factory.mktemp("undisturbed"))
    done = command_line.run(*GROWING, "hydra.run.dir=run")
    assert done.code == 0, done.err
    return command_line.folder / "run"


def test_the_undisturbed_run_meets_every_stage(undisturbed):
    stages = {
        slot["stage"]
        for line in lines(undisturbed / "metrics.jsonl")
        for row in line["members"]
        for slot in row["slots"].values()
    }
    assert {"DORMANT", "TRAINING", "BLENDING", "PROBATIONARY", "FOSSILIZED"} <= stages


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_several_times_it_ends_where_it_would_have_ended(esper, undisturbed, seed):
    draw = random.Random(seed)
    run_dir = esper.folder / "run"
    kills = sorted(draw.sample(range(1, EPOCHS), 2))
    esper.kill_at(0, 0.2 * draw.random(), run_dir, *GROWING, "hydra.run.dir=run")
    for epoch in kills:
        esper.kill_at(epoch, 0.2 * draw.random(), run_dir, "resume=run")
    done = esper.run("resume=run")
    assert done.code == 0, done.err
    assert record_of(run_dir)["status"] == "finished"
    assert what_happened(run_dir) == what_happened(undisturbed)
    expected, found = final_tensors(undisturbed), final_tensors(run_dir)
    assert expected.keys() == found.keys()
    assert all(expected[name].equal(found[name]) for name in expected)
    assert record_of(run_dir)["summary"]["grown"] == record_of(undisturbed)["summary"]["grown"]


def test_a_damaged_checkpoint_is_passed_over_and_named(esper, undisturbed):
    run_dir = esper.folder / "run"
    esper.kill_at(6, 0.0, run_dir, *GROWING, "checkpoint.keep_last=9", "hydra.run.dir=run")
    *_, newest = sorted(run_dir.glob("checkpoints/*.safetensors"), key=lambda path: int(path.stem.rpartition("_")[2]))
    newest.write_bytes(newest.read_bytes()[:-7])
    done = esper.run("resume=run")
    assert done.code == 0, done.err
    assert f"skipped the checkpoint of epoch {newest.stem.rpartition('_')[2]}" in done.err
    expected, found = final_tensors(undisturbed), final_tensors(run_dir)
    assert all(expected[name].equal(found[name]) for name in expected)


def test_without_a_sound_checkpoint_it_says_so(esper, undisturbed):
    run_dir = esper.folder / "run"
    shutil.copytree(undisturbed, run_dir)
    (run_dir / "run.json").write_text((run_dir / "run.json").read_text().replace('"finished"', '"running"'))
    for sidecar in run_dir.glob("checkpoints/*.json"):
        sidecar.write_text("{}")
    done = esper.run("resume=run")
    assert done.code == 2
    assert "no sound checkpoint" in done.err
    assert len(done.err.splitlines()) <= 2


def test_a_finished_run_stays_as_it_is(esper, undisturbed):
    before = (undisturbed / "run.json").read_bytes()
    done = esper.run(f"resume={undisturbed}")
    assert done.code == 0
    assert "has finished" in done.out
    assert (undisturbed / "run.json").read_bytes() == before


def test_a_full_disk_fails_the_run_and_leaves_what_was_saved(esper):
    """A limit on the size of files stands in for the disk: the growing metrics.jsonl meets it."""

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, 120_000))

    run_dir = esper.folder / "run"
    arguments = ("policy=static", "epochs=200", "engine.members=2", "checkpoint=often", "telemetry.report=false")
    done = esper.run(*arguments, "hydra.run.dir=run", preexec_fn=small_files)
    assert done.code == 1
    assert len(done.err.splitlines()) <= 2
    assert "resume=run" in done.err
    record = record_of(run_dir)
    assert record["status"] == "failed"
    assert record["error"]
    reached = last_epoch(run_dir)
    assert (run_dir / "checkpoints" / f"agent_epoch_{reached}.json").exists()
    process = esper.start("resume=run")
    esper.wait_for(reached + 2, run_dir, process)
    assert last_epoch(run_dir) >= reached + 2

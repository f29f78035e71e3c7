"""Killed at any moment and resumed, a run ends bit for bit where it would have ended."""

import random
import resource
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file

from esper.tasks.text.tokenizer import get_tokenizer
from esper.tasks.text.training import train_tokenizer
from tests.e2e.conftest import CommandLine, last_epoch, lines, record_of
from tests.own_data import made, pictures

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
    command_line = CommandLine(tmp_path_factory.mktemp("undisturbed"))
    done = command_line.run_here(*GROWING, "checkpoint.keep_last=9", "hydra.run.dir=run")
    assert done.code == 0, done.err
    return command_line.folder / "run"


def unfinished(undisturbed, copy, last_epoch):
    """A copy of the run as if it had been killed after this checkpoint."""
    shutil.copytree(undisturbed, copy)
    (copy / "run.json").write_text((copy / "run.json").read_text().replace('"finished"', '"running"'))
    for path in copy.glob("checkpoints/*"):
        if int(path.stem.rpartition("_")[2]) > last_epoch:
            path.unlink()
    return copy


def assert_same_end(run_dir, undisturbed):
    assert record_of(run_dir)["status"] == "finished"
    assert what_happened(run_dir) == what_happened(undisturbed)
    expected, found = final_tensors(undisturbed), final_tensors(run_dir)
    assert expected.keys() == found.keys()
    assert all(expected[name].equal(found[name]) for name in expected)
    assert record_of(run_dir)["summary"]["grown"] == record_of(undisturbed)["summary"]["grown"]


def test_the_undisturbed_run_meets_every_stage(undisturbed):
    stages = {
        slot["stage"]
        for line in lines(undisturbed / "metrics.jsonl")
        for row in line["members"]
        for slot in row["slots"].values()
    }
    assert {"DORMANT", "TRAINING", "BLENDING", "PROBATIONARY", "FOSSILIZED"} <= stages


@pytest.mark.parametrize(("seed", "kills"), [(1, 1), (2, 2)])
def test_killed_several_times_it_ends_where_it_would_have_ended(esper, undisturbed, seed, kills):
    draw = random.Random(seed)
    run_dir = esper.folder / "run"
    first, *others = sorted(draw.sample(range(EPOCHS), 1 + kills))
    esper.kill_at(first, 0.1 * draw.random(), run_dir, *GROWING, "hydra.run.dir=run")
    for epoch in others:
        esper.kill_at(epoch, 0.1 * draw.random(), run_dir, "resume=run")
    done = esper.run_here("resume=run")
    assert done.code == 0, done.err
    assert_same_end(run_dir, undisturbed)


def test_killed_before_the_first_checkpoint_it_starts_again(esper, undisturbed):
    run_dir = unfinished(undisturbed, esper.folder / "run", -1)
    assert esper.run_here("resume=run").code == 0
    assert_same_end(run_dir, undisturbed)


def test_a_damaged_checkpoint_is_passed_over_and_named(esper, undisturbed):
    run_dir = unfinished(undisturbed, esper.folder / "run", 6)
    newest = run_dir / "checkpoints" / "agent_epoch_6.safetensors"
    newest.write_bytes(newest.read_bytes()[:-7])
    done = esper.run_here("resume=run")
    assert done.code == 0, done.err
    assert "skipped the checkpoint of epoch 6" in done.err
    assert_same_end(run_dir, undisturbed)


def test_without_a_sound_checkpoint_it_says_so(esper, undisturbed):
    run_dir = unfinished(undisturbed, esper.folder / "run", EPOCHS)
    for sidecar in run_dir.glob("checkpoints/*.json"):
        sidecar.write_text("{}")
    done = esper.run_here("resume=run")
    assert done.code == 2
    assert "no sound checkpoint" in done.err
    assert len(done.err.splitlines()) <= 2


def test_a_finished_run_stays_as_it_is(esper, undisturbed):
    before = (undisturbed / "run.json").read_bytes()
    done = esper.run_here(f"resume={undisturbed}")
    assert done.code == 0
    assert "has finished" in done.out
    assert (undisturbed / "run.json").read_bytes() == before


def test_a_full_disk_fails_the_run_and_leaves_what_was_saved(esper):
    """A limit on the size of files stands in for the disk: the growing metrics.jsonl meets it."""

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    run_dir = esper.folder / "run"
    tiny = ("policy=static", "epochs=40", "engine.members=1", "controls=[]", "task.distortion=none")
    arguments = (*tiny, "checkpoint=often", "telemetry.report=false", "engine.threads=1")
    done = esper.run(*arguments, "hydra.run.dir=run", preexec_fn=small_files)
    assert done.code == 1
    said = done.err.partition("Exception ignored")[0]  # coverage, where it measures, meets the limit too
    assert len(said.splitlines()) <= 2
    assert "resume=run" in said
    record = record_of(run_dir)
    assert record["status"] == "failed"
    assert record["error"]
    reached = last_epoch(run_dir)
    assert 0 < reached < 40
    assert (run_dir / "checkpoints" / f"agent_epoch_{reached}.json").exists()
    assert esper.run_here("resume=run").code == 0
    assert [line["epoch"] for line in lines(run_dir / "metrics.jsonl")] == list(range(41))


def test_a_run_on_tokens_knows_its_tokenizer_again(esper):
    text, file = esper.folder / "text.txt", esper.folder / "tokenizer.json"
    text.write_text("the cat sat on the mat; the other cat sat on the other mat\n" * 200)
    definitions = [train_tokenizer([str(text)], size)[0] for size in (300, 270)]
    file.write_bytes(definitions[0])
    of_text = ["experiment=language", "task=text", f"task.path={text}", f"task.tokenizer={file}", "task.block_size=8"]
    quick = ["debug=smoke", "epochs=3", "checkpoint.every_epochs=1", "checkpoint.keep_last=9", "telemetry.report=false"]
    done = esper.run_here(*of_text, *quick, "engine.kind=sequential", "hydra.run.dir=run")
    assert done.code == 0, done.err
    sha256 = get_tokenizer(str(file)).sha256
    assert record_of(esper.folder / "run")["tokenizer_sha256"] == sha256
    copy = esper.folder / "copy"
    unfinished(esper.folder / "run", copy, 1)
    file.write_bytes(definitions[1])
    other = esper.run_here(f"resume={copy}")
    assert other.code == 2 and f"whose sha256 is {sha256}" in other.err and len(other.err.splitlines()) == 2
    file.write_bytes(definitions[0])
    assert esper.run_here(f"resume={copy}").code == 0
    assert record_of(copy)["summary"]["grown"] == record_of(esper.folder / "run")["summary"]["grown"]


def test_a_run_on_data_of_ones_own_knows_them_again(esper):
    own = made("arrays", esper.folder)
    quick = ["debug=smoke", "epochs=3", "checkpoint.every_epochs=1", "checkpoint.keep_last=9", "telemetry.report=false"]
    done = esper.run_here("task=arrays", *own, *quick, "engine.kind=sequential", "hydra.run.dir=run")
    assert done.code == 0, done.err
    copy, file = esper.folder / "copy", esper.folder / "own.npz"
    unfinished(esper.folder / "run", copy, 1)
    before = file.read_bytes()
    images, labels = pictures()
    np.savez(file, x=images, y=(labels + 1) % 3)
    other = esper.run_here(f"resume={copy}")
    assert other.code == 2 and "the data are not those that the run began with\n" in other.err
    file.write_bytes(before)
    assert esper.run_here(f"resume={copy}").code == 0
    assert record_of(copy)["summary"]["grown"] == record_of(esper.folder / "run")["summary"]["grown"]

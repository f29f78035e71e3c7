"""A run whose files were damaged, lost or changed goes on with all that is sound, or says what it wants."""

import json
import re
import shutil

import pytest

import esper as api
from esper.errors import CheckpointError, ConfigError
from tests.e2e.conftest import CommandLine, lines, record_of
from tests.e2e.test_resume import TIMES

EPOCHS, KILLED_AT = 6, 4
GROWING = (
    "policy=scheduled",
    "policy.plant_epochs=[1,1,1]",
    "policy.blend_epochs=[2,3,4]",
    "gates=permissive",
    f"epochs={EPOCHS}",
    "engine.members=2",
    "engine.threads=1",
    "checkpoint.every_epochs=2",
    "checkpoint.keep_last=2",
    "checkpoint.keep_best=0",
    "telemetry.report=false",
    "task.image_size=8",
    "host.channels=[4,8,8]",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    command_line = CommandLine(tmp_path_factory.mktemp("whole"))
    done = command_line.run_here(*GROWING, "checkpoint.keep_last=9", "hydra.run.dir=run")
    assert done.code == 0, done.err
    return command_line.folder / "run"


@pytest.fixture
def killed(esper, whole):
    """The run as a kill at epoch 5 would have left it: its checkpoints are of epochs 2 and 4."""
    copy = esper.folder / "run"
    shutil.copytree(whole, copy)
    (copy / "run.json").write_text((copy / "run.json").read_text().replace('"finished"', '"running"'))
    for path in copy.glob(f"checkpoints/*_{EPOCHS}.*"):
        path.unlink()
    cut(copy / "metrics.jsonl", lambda line: line["epoch"] <= KILLED_AT + 1)
    cut(copy / "events.jsonl", lambda line: line["epoch"] <= KILLED_AT)
    return copy


def cut(path, is_kept):
    kept = [line for line in path.read_text().splitlines() if is_kept(json.loads(line))]
    path.write_text("".join(f"{line}\n" for line in kept))


def flip(path, number, column=3):
    """One bit of a byte of a line."""
    text = path.read_bytes().split(b"\n")
    line = bytearray(text[number - 1])
    line[column] ^= 0x80
    path.write_bytes(b"\n".join([*text[: number - 1], bytes(line), *text[number:]]))


def without_times(path):
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines(path)]


def of_growth(path):
    return [line for line in lines(path) if line["type"] not in ("run_resumed", "checkpoint_saved")]


def told_saved(run_dir):
    saved = (line for line in lines(run_dir / "events.jsonl") if line["type"] == "checkpoint_saved")
    return [line["data"]["checkpoint"] for line in saved]


def assert_whole(run_dir, whole):
    assert record_of(run_dir)["status"] == "finished"
    for name in ("id", "uid", "name", "sweep", "seed", "max_epochs", "started_at", "overrides", "options", "engine"):
        assert record_of(run_dir)[name] == record_of(whole)[name], name
    assert record_of(run_dir)["summary"]["grown"] == record_of(whole)["summary"]["grown"]
    assert without_times(run_dir / "metrics.jsonl") == without_times(whole / "metrics.jsonl")
    assert of_growth(run_dir / "events.jsonl") == of_growth(whole / "events.jsonl")
    assert told_saved(run_dir) == [2, 4, 6]
    assert (run_dir / "config.yaml").read_text() == (whole / "config.yaml").read_text()
    assert not list(run_dir.rglob("*.tmp"))
    tensors = f"checkpoints/agent_epoch_{EPOCHS}.safetensors"
    assert (run_dir / tensors).read_bytes() == (whole / tensors).read_bytes()


def altered(**changes):
    return lambda run: (run / "run.json").write_text(json.dumps(record_of(run) | changes))


def damage(name, number):
    return lambda run: flip(run / f"{name}.jsonl", number)


DAMAGED = {
    "run.json is cut short": (lambda run: (run / "run.json").write_bytes(b'{"schema": 1, "id"'), "written anew"),
    "run.json is lost": (lambda run: (run / "run.json").unlink(), "run.json is missing; written anew"),
    "run.json is another's": (lambda run: (run / "run.json").write_text('{"status": "failed"}'), "written anew"),
    "run.json has no status": (altered(status=None), "status is null; expected one of queued"),
    "run.json has odd epochs": (altered(epoch="four"), "epoch is 'four'; expected an integer"),
    "run.json has another engine": (altered(engine={"kind": "nonsense"}), ""),
    "config.yaml is lost": (lambda run: (run / "config.yaml").unlink(), "config.yaml is missing; written anew"),
    "metrics: the third line": (
        damage("metrics", 3),
        "line 3; restored from checkpoints: epoch 2\n",
    ),
    "metrics: the last line": (
        damage("metrics", 5),
        "line 5; restored from checkpoints: epoch 4\n",
    ),
    "metrics: an epoch's number": (
        lambda run: (run / "metrics.jsonl").write_text(
            (run / "metrics.jsonl").read_text().replace('"epoch":3', '"epoch":7')
        ),
        "line 4; restored from checkpoints: epoch 3",
    ),
    "metrics: lost": (lambda run: (run / "metrics.jsonl").unlink(), "restored from checkpoints: epoch 0, 1, 2, 3, 4"),
    "events: the second line": (damage("events", 2), "line 2; restored from checkpoints: events"),
    "events: lost": (lambda run: (run / "events.jsonl").unlink(), "restored from checkpoints: events of epoch 0, 1"),
    "events: a line's words": (
        lambda run: (run / "events.jsonl").write_text(
            (run / "events.jsonl").read_text().replace('"germinated"', '"germinatet"', 1)
        ),
        "restored from checkpoints: events of epoch 1",
    ),
    "killed before it could say that it had saved": (
        lambda run: cut(run / "events.jsonl", lambda line: line["data"].get("checkpoint") != KILLED_AT),
        "",
    ),
    "killed while it wrote": (
        lambda run: [
            (run / name).write_text("{")
            for name in (".run.json.0123abcd.tmp", "checkpoints/.agent_epoch_6.json.01.tmp", ".report.html.01.tmp")
        ],
        "",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_run_goes_on_with_all_that_is_sound(esper, killed, whole, name):
    harm, said = DAMAGED[name]
    harm(killed)
    done = esper.run_here("resume=run")
    assert done.code == 0, done.err
    assert said in done.err
    assert len(done.err.splitlines()) == bool(said)
    assert_whole(killed, whole)


def test_a_line_that_no_checkpoint_has_is_left_out_alone(esper, killed, whole):
    for path in killed.glob("checkpoints/*_2.*"):
        path.unlink()
    flip(killed / "metrics.jsonl", 2)
    done = esper.run_here("resume=run")
    assert done.code == 0
    assert "metrics.jsonl: left out what cannot be read in line 2; lost: epoch 1\n" in done.err
    assert [line["epoch"] for line in lines(killed / "metrics.jsonl")] == [0, 2, 3, 4, 5, 6]
    assert of_growth(killed / "events.jsonl") == of_growth(whole / "events.jsonl")


def test_killed_after_its_last_words_it_says_them_once(esper, whole):
    copy = esper.folder / "run"
    shutil.copytree(whole, copy)
    altered(status="running", summary=None)(copy)
    assert esper.run_here("resume=run").code == 0
    assert_whole(copy, whole)


def test_killed_before_it_pruned_it_prunes_when_it_goes_on(esper, whole):
    copy = esper.folder / "run"
    shutil.copytree(whole, copy)
    altered(status="running", summary=None)(copy)
    (copy / "config.yaml").write_text((copy / "config.yaml").read_text().replace("keep_last: 9", "keep_last: 1"))
    assert esper.run_here("resume=run").code == 0
    assert {path.stem for path in copy.glob("checkpoints/*")} == {f"agent_epoch_{EPOCHS}"}


def edit(run_dir, key, old, new):
    text = (run_dir / "config.yaml").read_text()
    assert f"{key}:{old}\n" in text
    (run_dir / "config.yaml").write_text(text.replace(f"{key}:{old}\n", f"{key}:{new}\n", 1))


CHANGED = {
    "learning_rate": (" 0.05", " 0.5", "optimizer.learning_rate is 0.5, and was 0.05"),
    "\nseed": (" 0", " 3", "seed is 3, and was 0"),
    "split_seed": (" 0", " 7", "task.split_seed is 7, and was 0"),
    "epochs": (f" {EPOCHS}", " 3", "epochs is 3, and was 6; its checkpoint is of epoch 4 already"),
    "members": (" 2", " 3", "engine.members is 3, and was 2"),
    "channels": ("\n  - 4", "\n  - 6", "host.channels is [6,8,8], and was [4,8,8]"),
    "min_contribution": (" -100.0", " high", "gates.min_contribution: expected a number"),
    "keep_last": (" 9", " 8", None),
}


@pytest.mark.parametrize("key", CHANGED)
def test_a_configuration_that_was_changed_is_refused_by_its_key(esper, killed, key):
    old, new, said = CHANGED[key]
    edit(killed, key, old, new)
    before = {path: path.read_bytes() for path in killed.rglob("*") if path.is_file() and path.name != "run.lock"}
    done = esper.run_here("resume=run")
    assert done.code == (0 if said is None else 2)
    if said is not None:
        assert said in done.err
        assert len(done.err.splitlines()) == 2
        assert {path: path.read_bytes() for path in before} == before


def test_a_key_that_is_named_is_changed_on_purpose(esper, killed):
    edit(killed, "learning_rate", " 0.05", " 0.5")
    edit(killed, "epochs", f" {EPOCHS}", " 8")
    told = esper.run_here("resume=run").err
    command = re.search(r"python -m esper\.run (resume=.*)\n", told)[1].split()
    assert command == ["resume=run", "epochs=8", "optimizer.learning_rate=0.5"]
    assert esper.run_here(*command[:-1]).code == 2
    assert esper.run_here(*command[:-1], "optimizer.learning_rate=0.4").code == 2
    assert esper.run_here(*command).code == 0
    assert (record_of(killed)["epoch"], record_of(killed)["max_epochs"]) == (8, 8)


def test_what_may_be_named_along_with_resume_is_told(esper, killed):
    refused = esper.run_here("resume=run", "epochs=8")
    assert refused.code == 2
    assert refused.err.splitlines() == [
        "error: epochs=8: a resumed run keeps its configuration",
        "  with resume= go only telemetry.console=..., telemetry.report=..., and keys that were changed in "
        "run/config.yaml before, with the value there",
    ]
    assert esper.run_here("resume=run", f"epochs={EPOCHS}").code == 0  # it says what the file says


def test_a_fixed_key_cannot_be_confirmed(esper, killed):
    edit(killed, "members", " 2", " 3")
    done = esper.run_here("resume=run", "engine.members=3")
    assert done.code == 2 and "engine.members is 3, and was 2" in done.err


@pytest.mark.parametrize("name", ["safetensors", "json"])
def test_a_member_of_an_older_epoch_is_given_only_when_asked_for(killed, name):
    newest = killed / f"checkpoints/agent_epoch_{KILLED_AT}.{name}"
    data = bytearray(newest.read_bytes())
    data[-20] ^= 1
    newest.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match=rf"agent_epoch_{KILLED_AT}.*\n.*older one: .*epoch=2\)"):
        api.load_member(killed)
    api.load_member(killed, epoch=2)


def test_a_member_is_loaded_though_the_next_checkpoint_is_half_written(killed):
    (killed / "checkpoints/agent_epoch_6.safetensors").write_bytes(b"half")
    with pytest.warns(UserWarning, match="epoch 4 is loaded: .*agent_epoch_6.*no sidecar"):
        api.load_member(killed)


def test_a_member_is_loaded_without_run_json_and_never_by_another_configuration(killed):
    (killed / "run.json").unlink()
    api.load_member(killed)
    edit(killed, "members", " 2", " 3")
    with pytest.raises(ConfigError, match=r"engine\.members is 3, and was 2"):
        api.load_member(killed)

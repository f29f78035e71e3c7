"""What a user types, and what comes back."""

import re
import signal

import pytest

from tests.e2e.conftest import TIMEOUT_S, lines, record_of

TINY = ("debug=smoke", "policy=static")


def test_a_run_leaves_what_it_promises(esper):
    done = esper.run("debug=smoke", "name=trial", "engine.kind=sequential")
    assert done.code == 0, done.err
    run_dir = esper.only_run()
    assert run_dir.parent == esper.folder / "outputs" / "trial"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_[0-9a-f]{8}", run_dir.name)
    record = record_of(run_dir)
    assert (record["status"], record["epoch"], record["engine"]["kind"]) == ("finished", 2, "sequential")
    assert len(record["summary"]["grown"]["test_accuracy"]) == len(record["summary"]["twin"]["test_accuracy"]) == 2
    assert [line["epoch"] for line in lines(run_dir / "metrics.jsonl")] == [0, 1, 2]
    assert next(line["type"] for line in lines(run_dir / "events.jsonl")) == "run_started"
    assert (run_dir / "checkpoints" / "agent_epoch_2.json").exists()
    assert "<html" in (run_dir / "report.html").read_text()
    assert "epoch 2/2" in done.out
    assert "report.html" in done.out


@pytest.mark.fast
def test_a_run_goes_where_it_was_told_to_and_never_over_another(esper):
    mine = esper.folder / "mine"
    assert esper.run_here(*TINY, "telemetry=none", f"hydra.run.dir={mine}").code == 0
    before = (mine / "run.json").read_bytes()
    again = esper.run_here(*TINY, "telemetry=none", f"hydra.run.dir={mine}")
    assert again.code == 2
    assert "already holds a run" in again.err
    assert (mine / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["engine.membrs=3"], "did you mean engine.members?"),
        (["policy=heuristc"], "did you mean policy=heuristic?"),
        (["engine.members=0"], "1 to 4096"),
        (["-m", "seed=1,x"], "seed=x"),
        (["--frobnicate"], "--frobnicate"),
        (["--experimental-rerun", "x.pickle"], "resume="),
        (["resume=nowhere"], "no such folder"),
        (["resume=."], "it has no run.json"),
        (["-m", "resume=."], "it has no run.json"),
        (["hydra.run.dir=${nowhere}"], "nowhere"),
        (["hydra.run.dir=/dev/null/mine"], "hydra.run.dir=/dev/null/mine: this folder cannot be made"),
    ],
)
def test_bad_input_is_answered_in_short_and_leaves_nothing_behind(esper, arguments, wanted):
    done = esper.run_here(*arguments)
    assert done.code == 2
    assert wanted in done.err
    assert len(done.err.splitlines()) <= 2
    assert done.err.startswith("error: ")
    assert list(esper.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["slots.names=[early,block1]"], "slots.names: "),
        (["slots.names=[early,earli]"], "did you mean 'early'?"),
        (["task=text", "host=transformer", "task.path=nowhere.txt"], "task.path=nowhere.txt: there is no such file"),
        (["host=custom", "host.factory=nowhere:f", "host.positions=[a]"], "host.factory=nowhere:f: No module"),
        (["policy=scheduled", "policy.blueprints=[conv_lite]"], "did you mean 'conv_light'?"),
        (["blueprint.names=[lora]"], "lora"),
        (["policy=ppo", f"policy.load={__file__}"], f"policy.load={__file__}: "),
        (["policy=iql", f"policy.load={__file__}"], f"policy.load={__file__}: "),
    ],
)
def test_parts_that_do_not_fit_are_answered_in_short(esper, arguments, wanted):
    done = esper.run_here("debug=smoke", *arguments)
    assert done.code == 2
    assert wanted in done.err
    assert len(done.err.splitlines()) <= 2
    assert list(esper.folder.iterdir()) == []  # nothing is left of a run that never began


def test_a_folder_that_holds_something_else_keeps_it(esper):
    (esper.folder / "mine").mkdir()
    (esper.folder / "mine" / "notes.txt").write_text("keep")
    assert esper.run_here("slots.names=[nowhere]", f"hydra.run.dir={esper.folder / 'mine'}").code == 2
    assert [path.name for path in (esper.folder / "mine").iterdir()] == ["notes.txt"]


def test_a_run_is_told_by_the_options_that_were_chosen(esper):
    tiny = ("task.epoch_windows=32", "task.train_bytes=8000", "task.val_bytes=2000", "task.test_bytes=2000")
    done = esper.run_here("experiment=language", "debug=smoke", "epochs=1", "engine.members=1", *tiny)
    assert done.code == 0 and "policy heuristic_text" in done.out
    run_dir = esper.only_run()
    assert record_of(run_dir)["options"]["experiment"] == "language"
    assert "heuristic_text" in (run_dir / "report.html").read_text().partition("resolved config")[0]


def test_ctrl_c_finishes_the_epoch_and_says_how_to_resume(esper):
    run_dir = esper.folder / "run"
    process = esper.start("policy=static", "engine.members=2", "epochs=5000", f"hydra.run.dir={run_dir}")
    esper.wait_for(2, run_dir, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert f"python -m esper.run resume={run_dir.relative_to(esper.folder)}" in out
    record = record_of(run_dir)
    assert record["status"] == "interrupted"
    assert (run_dir / "checkpoints" / f"agent_epoch_{record['epoch']}.json").exists()
    refused = esper.run_here(f"resume={run_dir}", "seed=3")
    assert refused.code == 2
    assert "keeps its configuration" in refused.err


@pytest.mark.alone
def test_a_second_ctrl_c_stops_at_once(esper):
    run_dir = esper.folder / "run"
    slow = ("engine=fused", "engine.members=8", "task.val_copies=64")
    process = esper.start("policy=static", *slow, f"hydra.run.dir={run_dir}")
    esper.wait_for(0, run_dir, process)
    process.send_signal(signal.SIGINT)
    assert "once more" in process.stderr.readline() + process.stderr.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    assert record_of(run_dir)["status"] == "interrupted"
    assert not (run_dir / "checkpoints").exists()  # it did not wait for the end of the epoch


def test_a_run_in_use_is_not_resumed(esper):
    run_dir = esper.folder / "run"
    process = esper.start("policy=static", "engine.members=2", "epochs=5000", f"hydra.run.dir={run_dir}")
    esper.wait_for(1, run_dir, process)
    refused = esper.run_here(f"resume={run_dir}")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert refused.code == 2
    assert f"process {process.pid}" in refused.err


def test_being_stopped_when_nobody_reads_is_no_failure(esper):
    process = esper.start("policy=static", "engine.members=2", "epochs=5000", "hydra.run.dir=run")
    esper.wait_for(1, esper.folder / "run", process)
    process.stdout.close()
    process.send_signal(signal.SIGTERM)
    assert "Traceback" not in process.stderr.read()
    assert process.wait(timeout=60) == 143
    assert record_of(esper.folder / "run")["status"] == "interrupted"


def test_to_resume_nothing_is_to_start(esper):
    done = esper.run_here("resume=null", "--cfg", "job")
    assert (done.code, done.err) == (0, "")


def test_a_reader_that_goes_away_costs_nothing(esper):
    process = esper.start("debug=smoke", "epochs=30", "hydra.run.dir=run")
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert (process.wait(timeout=60), errors) == (0, "")

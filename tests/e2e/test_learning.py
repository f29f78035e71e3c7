"""Policies that learn, from the command line: learn, grow, resume, act, and refuse what does not fit."""

import json
import shutil

import pytest
from safetensors.torch import load_file

from esper.nissa.metric_names import LEARNING_METRICS
from tests.e2e.conftest import CommandLine, lines, record_of

TINY = (
    "task.distortion=none", "task.image_size=8", "host.channels=[2,2]", "slots=early_late", "epochs=4",
    "engine=fused", "engine.members=2", "engine.threads=1",
)  # fmt: skip
UPDATES = 3
LEARNING = (f"policy.updates={UPDATES}", "policy.members=3", "policy.warmup_updates=0", "checkpoint.every_epochs=1")
TIMES = ("wall_s", "collect_s", "update_s", "validation_s", "references_s")


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """One run that learned by PPO, validating twice, and then grew."""
    command_line = CommandLine(tmp_path_factory.mktemp("learned"))
    done = command_line.run_here(
        *TINY, *LEARNING, "policy=ppo", "policy.validate_every=2", "policy.validation_episodes=2",
        "checkpoint.keep_last=20", "hydra.run.dir=run",
    )  # fmt: skip
    assert done.code == 0, done.err
    return command_line, command_line.folder / "run", done


def without_times(path):
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines(path)]


def test_it_learns_and_then_grows(learned):
    _, run_dir, done = learned
    updates = lines(run_dir / "learning.jsonl")
    assert [line["update"] for line in updates] == [1, 2, 3]
    assert [line["episodes"] for line in updates] == [3, 6, 9]
    assert [line["epoch"] for line in lines(run_dir / "metrics.jsonl")] == [0, 1, 2, 3, 4]
    assert {"update", "epoch", "max_updates"} <= record_of(run_dir).keys()
    assert (record_of(run_dir)["update"], record_of(run_dir)["epoch"]) == (UPDATES, 4)
    assert "update 3/3" in done.out and "epoch 4/4" in done.out
    assert "How the policy learned" in (run_dir / "report.html").read_text()


def test_every_name_it_writes_is_in_the_glossary(learned):
    _, run_dir, _ = learned
    names = {name for line in lines(run_dir / "learning.jsonl") for name in line}
    assert names <= LEARNING_METRICS.keys()


def test_every_update_stands_beside_what_rules_earn_there(learned):
    _, run_dir, done = learned
    updates = lines(run_dir / "learning.jsonl")
    rules = {(line["heuristic_return"], line["static_return"]) for line in updates}
    ((heuristic, static),) = rules
    assert [("references_s" in line) for line in updates] == [True, False, False]
    shown = f"points of accuracy (heuristic {100 * heuristic:.1f}, static host {100 * static:.1f})"
    assert done.out.count(shown) == UPDATES and record_of(run_dir)["return_unit"] == "points of accuracy"
    assert f"static host {100 * static:.1f}<" in (run_dir / "report.html").read_text()


def test_validation_happens_when_due_and_at_the_end(learned):
    _, run_dir, _ = learned
    assert ["validation_return" in line for line in lines(run_dir / "learning.jsonl")] == [False, True, True]


@pytest.mark.parametrize("last", [1, 2, 3, 5])
def test_a_run_killed_while_it_learns_or_grows_ends_alike(learned, tmp_path, last):
    _, run_dir, _ = learned
    copy = tmp_path / "copy"
    shutil.copytree(run_dir, copy)
    (copy / "run.json").write_text((copy / "run.json").read_text().replace('"finished"', '"running"'))
    for path in copy.glob("checkpoints/*"):
        if int(path.stem.rpartition("_")[2]) > last:
            path.unlink()
    done = CommandLine(tmp_path).run_here(f"resume={copy}")
    assert done.code == 0, done.err
    assert without_times(copy / "learning.jsonl") == without_times(run_dir / "learning.jsonl")
    assert sum("references_s" in line for line in lines(copy / "learning.jsonl")) == 1  # they are measured once
    ends = [load_file(folder / "checkpoints" / f"agent_epoch_{UPDATES + 4}.safetensors") for folder in (copy, run_dir)]
    assert ends[0].keys() == ends[1].keys()
    assert all(ends[0][name].equal(ends[1][name]) for name in ends[0])
    assert record_of(copy)["summary"]["grown"] == record_of(run_dir)["summary"]["grown"]


def test_a_policy_acts_in_another_run(learned):
    esper, run_dir, _ = learned
    done = esper.run_here(*TINY, "policy=ppo", f"policy.load={run_dir}", "policy.updates=0", "hydra.run.dir=acting")
    assert done.code == 0, done.err
    assert "update " not in done.out and not (esper.folder / "acting" / "learning.jsonl").exists()


def test_a_run_that_acts_keeps_its_policy(learned, tmp_path):
    """What was loaded may go: the run resumes without it, and is one to load from itself."""
    _, run_dir, _ = learned
    esper, source = CommandLine(tmp_path), tmp_path / "source"
    shutil.copytree(run_dir, source)
    acting = (*TINY, "policy=ppo", f"policy.load={source}", "policy.updates=0", "checkpoint.every_epochs=1")
    assert esper.run_here(*acting, "checkpoint.keep_last=9", "hydra.run.dir=whole").code == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(source)
    run_json = tmp_path / "cut" / "run.json"
    run_json.write_text(run_json.read_text().replace('"finished"', '"running"'))
    for path in (tmp_path / "cut" / "checkpoints").glob("*"):
        if int(path.stem.rpartition("_")[2]) > 2:
            path.unlink()
    done = esper.run_here("resume=cut")
    assert done.code == 0, done.err
    assert record_of(tmp_path / "cut")["summary"]["grown"] == record_of(tmp_path / "whole")["summary"]["grown"]
    again = esper.run_here(*TINY, "policy=ppo", "policy.load=whole", "policy.updates=0", "hydra.run.dir=again")
    assert again.code == 0, again.err


def test_a_policy_of_another_learner_is_refused(learned, tmp_path):
    _, run_dir, _ = learned
    done = CommandLine(tmp_path).run_here(*TINY, "policy=reinforce", f"policy.load={run_dir}", "policy.updates=0")
    assert done.code == 2 and "'ppo'" in done.err and "'reinforce'" in done.err


def test_a_policy_of_other_slots_is_refused_by_name(learned, tmp_path):
    _, run_dir, _ = learned
    done = CommandLine(tmp_path).run_here(*TINY, "slots=early", "policy=ppo", f"policy.load={run_dir}")
    assert done.code == 2
    first, second = done.err.splitlines()
    assert "task=digits host=cnn slots.names=[early,late] blueprint.names=[norm," in first
    assert second.startswith("  this run has slots.names=[early]:")


def test_a_policy_of_other_slots_is_refused_from_a_file_too(learned, tmp_path):
    _, run_dir, _ = learned
    from esper.builders.loading import learned_part
    from esper.checkpoint import CheckpointManager
    from esper.simic.on_policy.policy_file import save_policy

    tensors, plain = learned_part(CheckpointManager(run_dir).load_latest_agent(), "learner")
    save_policy(tmp_path / "policy.safetensors", tensors, plain, {})
    done = CommandLine(tmp_path).run_here(*TINY, "blueprint=light", "policy=ppo", "policy.load=policy.safetensors")
    assert done.code == 2
    first, second = done.err.splitlines()
    assert "it learned with slots.names=[early,late] blueprint.names=[norm," in first and "task=" not in first
    assert second.startswith("  this run has blueprint.names=[norm,")
    acting = ("policy=ppo", "policy.updates=0", "policy.load=policy.safetensors")
    assert CommandLine(tmp_path).run_here(*TINY, *acting).code == 0


def test_reinforce_learns_too(tmp_path):
    esper = CommandLine(tmp_path)
    done = esper.run_here(*TINY, *LEARNING, "policy=reinforce", "policy.validate_every=0")
    assert done.code == 0, done.err
    assert len(lines(esper.only_run() / "learning.jsonl")) == UPDATES


def test_iql_learns_from_recorded_runs_and_acts(learned):
    esper, _, _ = learned
    data = esper.run_here(*TINY, "policy=random", "policy.act_probability=0.8", "hydra.run.dir=data")
    assert data.code == 0, data.err
    iql = ("policy=iql", "policy.dataset=[data]", "policy.steps=600", "policy.batch_size=16")
    done = esper.run_here(*TINY, *iql, "hydra.run.dir=iql")
    assert done.code == 0, done.err
    updates = lines(esper.folder / "iql" / "learning.jsonl")
    assert len(updates) == 2 and {name for line in updates for name in line} <= LEARNING_METRICS.keys()
    acting = esper.run_here(*TINY, "policy=iql", "policy.load=iql", "hydra.run.dir=iql_acts")
    assert acting.code == 0, acting.err


def test_a_dataset_of_another_schema_is_refused(learned):
    esper, run_dir, _ = learned
    old = esper.folder / "old"
    shutil.copytree(run_dir, old)
    records = [json.loads(line) | {"schema": 1} for line in (old / "metrics.jsonl").read_text().splitlines()]
    (old / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    done = esper.run_here(*TINY, "policy=iql", "policy.dataset=[old]")
    assert done.code == 2 and "schema" in done.err and "metrics.jsonl" in done.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["policy=iql"], "policy.dataset"),
        (["policy=ppo", "policy.load=nowhere"], "policy.load=nowhere"),
        (["policy=ppo", "policy.gamma=0.9"], "reward.discount"),
        (["policy=reinforce", "policy.patience=50", "policy.validate_every=10"], "patience"),
        (["reward=contributon"], "contribution"),
    ],
)
def test_bad_input_is_answered(tmp_path, arguments, says):
    done = CommandLine(tmp_path).run_here(*TINY, *arguments)
    assert done.code == 2 and says in done.err and "Traceback" not in done.err


def test_a_reward_that_is_no_number_stops_the_run_and_loses_nothing(tmp_path, monkeypatch):
    """The member, the epoch and the last checkpoint are named; the run goes on from there once that is mended."""
    esper, spoilt = CommandLine(tmp_path), []

    def spoiled(settings):
        def reward(before, after):
            is_second = any((tmp_path / "run/checkpoints").glob("agent_epoch_1*"))  # update
            if not (is_second and after.member == 0 and after.epoch == 2) or spoilt:
                return 0.5
            spoilt.append(after)
            return float("nan")

        return reward

    arguments = (*TINY, *LEARNING, "policy=ppo", "hydra.run.dir=run")
    monkeypatch.setattr("esper.builders.population.build_reward", spoiled)
    stopped = esper.run_here(*arguments)
    assert stopped.code == 1 and "Traceback" not in stopped.err
    assert "member 0" in stopped.err and "epoch 2" in stopped.err
    assert "to continue from agent_epoch_1: python -m esper.run resume=run" in stopped.err
    assert record_of(tmp_path / "run")["status"] == "failed"
    done = esper.run_here("resume=run")
    assert done.code == 0, done.err


def test_a_run_that_never_began_leaves_nothing_behind(tmp_path):
    esper = CommandLine(tmp_path)
    done = esper.run_here(*TINY, "slots.names=[early,earli]")
    assert done.code == 2 and not list(tmp_path.rglob("run.json"))

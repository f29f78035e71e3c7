"""A run in which every member diverged has failed, and a policy that never learned says so."""

import json

import pytest

from tests.e2e.conftest import record_of

TINY = ("debug=smoke", "policy=static", "engine.kind=sequential", "engine.threads=1", "telemetry.report=false")
WILD = "optimizer.learning_rate=1000"


def test_a_run_whose_members_all_diverged_has_failed(esper):
    for attempt in (("hydra.run.dir=wild", *TINY, "telemetry.report=true", WILD), ("resume=wild",)):
        done = esper.run_here(*attempt)
        assert done.code == 1
        assert "no seed was planted" not in done.out
        told = done.err.splitlines()
        assert len(told) == 2
        assert told[0].startswith("error: all 2 members and all their twins diverged")
        assert "optimizer.learning_rate=1000" in told[1]
        record = record_of(esper.folder / "wild")
        assert (record["status"], record["epoch"]) == ("failed", 2)
        assert "optimizer.learning_rate=1000" in record["error"]
        assert record["summary"]["retired"] == {"grown": 2, "twin": 2}
        assert (esper.folder / "wild/checkpoints/agent_epoch_2.json").exists()
        assert "failed" in (esper.folder / "wild/report.html").read_text()


def test_one_epoch_that_was_taken_back_is_divergence_too(esper):
    done = esper.run_here("hydra.run.dir=short", *TINY, WILD, "epochs=1", "engine.members=1", "controls=[]")
    assert done.code == 1
    assert "the only member diverged" in done.err


@pytest.mark.parametrize("launcher", ["basic", "fused"])
def test_a_job_of_a_sweep_fails_alike_and_alone(esper, launcher):
    done = esper.run(
        *("-m", *TINY, f"hydra/launcher={launcher}", "optimizer.learning_rate=0.05,1000,500"),
        f"hydra.sweep.dir={launcher}",
    )
    assert done.code == 1
    found = {}
    for path in esper.folder.glob(f"{launcher}/*/job.json"):
        job, run = json.loads(path.read_text()), record_of(path.parent)
        rate = next(o for o in run["overrides"] if "learning_rate" in o).partition("=")[2]
        found[rate] = (job["status"], run["status"], "diverged" in (job["error"] or ""), bool(job["result"]))
    failed = ("failed", "failed", True, False)
    assert found == {"0.05": ("finished", "finished", False, True), "1000": failed, "500": failed}
    assert "diverged" in done.out + done.err


@pytest.mark.parametrize("policy", ["ppo", "reinforce"])
def test_a_policy_that_was_never_learned_says_so_before_and_after(esper, policy):
    arguments = (*TINY[2:], "debug=smoke", f"policy={policy}", "policy.updates=0", f"hydra.run.dir={policy}")
    done = esper.run_here(*arguments)
    assert done.code == 0
    assert done.err.splitlines() == [f"policy={policy} acts untrained: policy.updates=0, and no policy.load"] * 2


def test_iql_without_anything_to_learn_from_is_refused(esper):
    done = esper.run_here(*TINY[2:], "debug=smoke", "policy=iql", "hydra.run.dir=iql")
    assert done.code == 2
    assert "policy.dataset" in done.err

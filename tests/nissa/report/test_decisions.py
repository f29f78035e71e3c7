from typing import Any

from esper.kasmina.gates import QualityGates
from esper.kasmina.state import SeedState
from esper.leyline import SeedStage
from esper.nissa.report.decisions import decisions, gate_totals, without_numbers
from esper.nissa.report.outcomes import commonest, seed_groups
from esper.nissa.report.timeline import SeedStory, check_text


def verdict(epoch: int, gate: str, passed: bool, seed: str = "s1", failed: str = "seed_gradient_low_0.01") -> Any:
    data = {
        "gate": gate,
        "target": "BLENDING",
        "passed": passed,
        "score": epoch / 10,
        "checks_passed": [f"global_improvement_{epoch}.00%"],
        "checks_failed": [] if passed else [failed],
    }
    return {"type": "gate_evaluated", "epoch": epoch, "member": 0, "slot": "mid", "seed": seed, "data": data}


def test_the_same_verdict_in_a_row_is_one_decision() -> None:
    events = [
        verdict(3, "G2", False),
        verdict(4, "G2", False),
        verdict(4, "G2", False, seed="s2"),
        verdict(5, "G2", True),
    ]
    first, other, last = decisions(events)
    assert (first.first, first.last, first.times, first.passed) == (3, 4, 2, False)
    assert first.score == 0.4 and first.checks_passed == ["the member gained 4.00 points"]
    assert first.checks_failed == ["its gradients are too weak beside the host's: 0.01"]
    assert (other.seed, other.times) == ("s2", 1)
    assert (last.first, last.last, last.passed) == (5, 5, True)


def test_totals_count_like_reasons_as_one() -> None:
    events = [
        verdict(3, "G2", False, failed="seed_gradient_low_0.01"),
        verdict(4, "G2", False, failed="seed_gradient_low_0.03"),
        verdict(5, "G2", True),
        verdict(2, "G1", True),
    ]
    first, second = gate_totals(events)
    assert (first.gate, second.gate) == ("G1", "G2")
    assert (second.asked, second.passed) == (3, 1)
    assert second.refusals == {"its gradients are too weak beside the host's": 2}


def test_every_check_of_the_gates_is_told_in_plain_words_that_stand_without_their_figures() -> None:
    gates, checks = QualityGates(), set[str]()
    for stage in SeedStage.DORMANT, SeedStage.GERMINATED:
        for good in (False, True):
            state = SeedState(seed_id="s" * good, blueprint_id="b" * good, stage=stage, is_healthy=good)
            state.alpha = float(good)
            metrics = state.metrics
            metrics.improvement_since_stage_start = metrics.seed_gradient_norm_ratio = 9.0 * good
            metrics.epochs_in_current_stage, metrics.isolation_violations = 9 * good, 3 * (not good)
            for contribution in (None, 9.0 * good):
                metrics.counterfactual_contribution = contribution
                for level in range(6):
                    result = getattr(gates, f"_check_g{level}")(state)
                    checks |= {*result.checks_passed, *result.checks_failed}
    assert len(checks) == 23
    for check in checks:
        words = check_text(check)
        assert "_" not in words and words != check.replace("_", " ")
        assert not without_numbers(words).endswith((":", " of"))
    assert check_text("global_improvement_low_-0.20%") == "the member gained too little: -0.20 points"
    assert check_text("of_a_later_version_7") == "of a later version 7"


def test_figures_do_not_make_reasons_different() -> None:
    assert without_numbers("contribution -0.31 points, 3 epochs") == without_numbers("contribution 12 points, 1 epochs")
    assert without_numbers("17") == "17"


def test_commonest_reasons_speak_in_the_words_of_the_first() -> None:
    reasons = ["unhealthy", "worth 0.2 points", "", "worth -1.4 points"]
    assert commonest(reasons, most=2) == ["worth 0.2 points (and 1 alike)", "unhealthy"]
    assert commonest([]) == []


def test_groups_follow_the_slots_and_count_outcomes() -> None:
    def story(slot: str, blueprint: str, outcome: str, why: str = "") -> SeedStory:
        return SeedStory(0, slot, "s", 1, blueprint, outcome=outcome, why_ended=why)

    stories = [
        story("late", "norm", "culled", "worth 0.1"),
        story("early", "norm", "growing"),
        story("early", "conv", "fossilised"),
        story("early", "conv", "culled"),
    ]
    groups = seed_groups(stories, ["early", "mid", "late"])
    assert [(group.slot, group.blueprint) for group in groups] == [
        ("early", "conv"),
        ("early", "norm"),
        ("late", "norm"),
    ]
    assert groups[0].count("fossilised") == groups[0].count("culled") == 1
    assert groups[2].why("culled") == "worth 0.1" and groups[2].why("fossilised") == ""

"""What evaluations add up to: hosts to seeds, seeds to means, versions to differences; and what is required of them."""

import numpy as np
import pytest
from scipy import stats

from esper.errors import ConfigError, EsperError
from esper.study.analyze.analysis import compare
from esper.study.analyze.bootstrap import FEWEST, bootstrap_interval
from esper.study.analyze.requirement import Requirement
from esper.study.evaluate.database import Evaluations, Measured
from tests.study.filling import failed, fill, finished, sha

HEURISTIC, STATIC = sha("heuristic"), sha("static")


@pytest.fixture
def path(tmp_path):
    """The heuristic (85, 86, ...) and the static host (80, 80, ...) on overlapping seeds; two hosts a seed."""
    path = tmp_path / "evaluations.sqlite"
    fill(path, [finished(seed, 80.0, 90.0 + 2 * seed) for seed in range(6)], HEURISTIC, run="outputs/a/one_heuristic")
    fill(path, [finished(seed, 80.0, 80.0) for seed in range(1, 8)], STATIC, "static", run="outputs/a/two_static")
    return path


def comparisons(path, *targets, suite=None):
    with Evaluations(path) as database:
        return compare(database, targets, suite)


def only(path, *targets, suite=None):
    (comparison,) = comparisons(path, *targets, suite=suite)
    return comparison


# ---- intervals


def test_an_interval_is_around_its_mean_and_always_the_same():
    values = [80.0, 81.5, 79.0, 84.0, 82.0, 80.5]
    found = bootstrap_interval(values)
    assert found == bootstrap_interval(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert min(values) <= found.low < found.mean < found.high <= max(values)
    moved = bootstrap_interval([value + 5 for value in values])
    assert (moved.low, moved.high) == pytest.approx((found.low + 5, found.high + 5))


def test_an_interval_of_normal_values_is_as_wide_as_student_s():
    values = np.random.default_rng(3).normal(size=20)
    found = bootstrap_interval(values)
    low, high = stats.t.interval(0.95, 19, values.mean(), stats.sem(values))
    assert found.high - found.low == pytest.approx(high - low, rel=0.06)


def test_an_interval_needs_values_and_may_have_no_width():
    assert bootstrap_interval([]).mean is None
    few = bootstrap_interval([1.0] * (FEWEST - 1))
    assert (few.mean, few.low, few.n) == (1.0, None, FEWEST - 1)
    same = bootstrap_interval([7.0] * FEWEST)
    assert (same.low, same.mean, same.high) == (7.0, 7.0, 7.0)


# ---- comparisons


def test_hosts_make_a_seed_and_seeds_make_a_mean(path):
    first, second = only(path).rows
    assert [first.policy, second.policy] == ["heuristic", "static"]  # best first
    assert first.values["test_accuracy"] == {seed: 85.0 + seed for seed in range(6)}
    assert (first.interval("test_accuracy").mean, first.interval("test_accuracy").n) == (87.5, 6)
    assert first.interval("test_bits_per_byte").n == 0


def test_differences_are_paired_by_seed(path):
    first, second = only(path).rows
    gap = second.difference(first, "test_accuracy")
    assert (gap.n, gap.mean) == (5, pytest.approx(-8.0))  # seeds 1 to 5: 80 less 86, 87, 88, 89, 90
    assert gap.low < -8.0 < gap.high < 0


def test_versions_of_different_tasks_are_not_compared(path):
    other = {"task": {"name": "cifar10"}}
    fill(path, [finished(seed, 10.0) for seed in range(6)], sha("other"), config=other)
    comparison = only(path)
    assert comparison.rows[-1].difference(comparison.rows[0], "test_accuracy") is None


def test_text_is_judged_by_bits_per_byte_and_fewer_are_better(tmp_path):
    path = tmp_path / "text.sqlite"
    for version, bits in (("worse", 3.0), ("better", 2.5)):
        results = [Measured(seed, {"test_bits_per_byte": [bits], "test_accuracy": [30.0]}, 1.0) for seed in range(5)]
        fill(path, results, sha(version), version)
    comparison = only(path)
    assert comparison.main_metric == "test_bits_per_byte"
    assert [row.policy for row in comparison.rows] == ["better", "worse"]


def test_suites_are_kept_apart(path):
    fill(path, [finished(1, 50.0)], STATIC, "static", suite="long")
    assert [(one.suite, len(one.rows)) for one in comparisons(path)] == [("default", 2), ("long", 1)]
    assert only(path, suite="long").rows[0].values["test_accuracy"] == {1: 50.0}
    assert comparisons(path, suite="distorted") == []  # shipped, and nothing was evaluated by it


def test_of_a_suite_that_was_changed_the_present_content_counts(path):
    from esper.checkpoint.plain import fingerprint
    from esper.config.suite import read_suite

    content = read_suite("default").content()
    with Evaluations(path) as database:
        present = database.add_suite(fingerprint(content), "default", content)
        database.add(1, present, finished(3, 99.0))
        database.add_suite(sha("a later trial"), "default", {})
    assert only(path).rows[0].values["test_accuracy"] == {3: 99.0}


@pytest.mark.parametrize(
    ("target", "policies"),
    [
        (STATIC[:8], ["static"]),
        (STATIC, ["static"]),
        ("outputs/a/two_static", ["static"]),
        ("two_static", ["static"]),
        ("two", ["static"]),
        ("one_heur@epoch-25", ["heuristic"]),
    ],
)
def test_a_version_or_a_run_is_found_by_any_part_that_is_its_own(path, target, policies):
    assert [row.policy for row in only(path, target).rows] == policies


def test_the_order_of_the_targets_is_that_of_the_rows(path):
    assert [row.policy for row in only(path, STATIC[:6], "one").rows] == ["static", "heuristic"]


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("outputs/a", "several runs"),
        ("two_statik", "did you mean two_static?"),
        ("two_static@epoch-24", "nothing of that name"),
        ("ffffffffff", "nothing of that name"),
    ],
)
def test_a_name_that_means_none_or_several_is_refused(path, target, wanted):
    with pytest.raises(EsperError) as caught:
        comparisons(path, target)
    assert wanted in str(caught.value)


def test_an_unknown_suite_is_answered_with_the_nearest(path):
    with pytest.raises(EsperError, match=r"suite defualt: there is no such suite; did you mean default\?"):
        comparisons(path, suite="defualt")


def titles(path):
    return {row.sha256: row.title for row in only(path).rows}


def test_versions_of_one_policy_are_told_apart_by_what_differs(path):
    assert set(titles(path).values()) == {"heuristic", "static"}
    seeds = {sha(f"ppo{seed}"): f"ppo, seed {seed}" for seed in (1, 2)}
    for seed, version in zip((1, 2), seeds, strict=True):
        config = {"task": {"name": "digits"}, "seed": seed, "name": f"run{seed}"}
        fill(path, [finished(1, 50.0)], version, "ppo", config=config)
    assert titles(path) == {HEURISTIC: "heuristic", STATIC: "static"} | seeds


def test_versions_of_one_configuration_are_told_apart_by_their_checkpoints_or_digits(path):
    later, stray = sha("later"), sha("stray")
    fill(path, [finished(1, 50.0)], later, "static", run="outputs/a/two_static", epoch=50)
    assert (titles(path)[STATIC], titles(path)[later]) == ("static, two_static@epoch-25", "static, two_static@epoch-50")
    for version in (stray, sha("another")):
        fill(path, [finished(1, 50.0)], version, "static")
    assert titles(path)[stray] == f"static, {stray[:8]}"


# ---- requirements


@pytest.mark.parametrize(
    ("text", "is_met"),
    [
        ("test_accuracy>0.7", True),
        ("test_accuracy > 0.875", False),
        ("test_accuracy>=0.875", True),
        ("test_accuracy>87", True),
        ("test_accuracy > 0.9%", True),
        ("test_accuracy<=87.4", False),
        ("wall_s<1", True),
        ("val_accuracy>0", False),  # it was not measured
    ],
)
def test_a_requirement_is_of_the_mean(path, text, is_met):
    (verdict,) = Requirement.parse(text).judge(comparisons(path, "one"))
    assert verdict.is_met is is_met
    assert verdict.text.startswith("met: " if is_met else "not met: ")


def test_how_a_threshold_was_read_is_said(path):
    assert "(0.7 is read as 70%)" in Requirement.parse("test_accuracy>0.7").judge(comparisons(path))[0].text
    assert "read as" not in Requirement.parse("wall_s<0.7").judge(comparisons(path))[0].text


def test_every_version_must_meet_it_and_none_is_not_enough(path):
    verdicts = Requirement.parse("test_accuracy>0.85").judge(comparisons(path))
    assert [verdict.is_met for verdict in verdicts] == [True, False]
    (nothing,) = Requirement.parse("test_accuracy>0").judge([])
    assert not nothing.is_met and "nothing was evaluated" in nothing.text


def test_seeds_that_failed_are_not_passed_over(path):
    fill(path, [failed(50)], HEURISTIC)
    (verdict,) = Requirement.parse("test_accuracy>0.7").judge(comparisons(path, "one"))
    assert not verdict.is_met and "1 of 7 seeds failed" in verdict.text


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("test_acuracy>0.7", "did you mean test_accuracy?"),
        ("test_accuracy", "cannot be read"),
        ("test_accuracy=0.7", "cannot be read"),
        ("test_accuracy>high", "cannot be read"),
    ],
)
def test_a_requirement_that_cannot_be_read_is_refused(text, wanted):
    with pytest.raises(ConfigError) as caught:
        Requirement.parse(text)
    assert wanted in str(caught.value)

"""What evaluations add up to: hosts to seeds, seeds to means, versions to differences; and what is required of them."""

import pytest
from scipy import stats

from esper.errors import ConfigError, EsperError
from esper.nissa.statistics import mean_interval
from esper.study.analyze.analysis import summarize
from esper.study.analyze.requirement import Requirement
from esper.study.compare.comparison import Comparison
from esper.study.compare.groups import read_groups
from esper.study.evaluate.database import Evaluations, Measured
from tests.study.filling import failed, fill, finished, sha
from tests.study.run_folders import make_run

HEURISTIC, STATIC = sha("heuristic"), sha("static")


@pytest.fixture
def path(tmp_path):
    """The heuristic (85, 86, ...) and the static host (80, 80, ...) on overlapping seeds; two hosts a seed."""
    path = tmp_path / "evaluations.sqlite"
    fill(path, [finished(seed, 80.0, 90.0 + 2 * seed) for seed in range(6)], HEURISTIC, run="outputs/a/one_heuristic")
    fill(path, [finished(seed, 80.0, 80.0) for seed in range(1, 8)], STATIC, "static", run="outputs/a/two_static")
    return path


def results(path, *targets, suite=None):
    with Evaluations(path) as database:
        return summarize(database, targets, suite)


def only(path, *targets, suite=None):
    (result,) = results(path, *targets, suite=suite)
    return result


# ---- intervals


def test_the_same_numbers_have_one_interval_whoever_asks(tmp_path):
    """`esper compare` of three runs, `esper analyze` of three seeds."""
    values = {0: 80.0, 1: 81.5, 2: 84.0}
    runs = [make_run(tmp_path / f"a{seed}", seed=seed, accuracy=[value, value]) for seed, value in values.items()]
    runs += [make_run(tmp_path / f"b{seed}", seed=seed, accuracy=[70.0, 70.0], policy="static") for seed in values]
    comparison = Comparison(read_groups([str(run) for run in runs]))
    fill(tmp_path / "db.sqlite", [finished(seed, value) for seed, value in values.items()], HEURISTIC)
    fill(tmp_path / "db.sqlite", [finished(seed, 70.0) for seed in values], STATIC, "static")
    first, second = only(tmp_path / "db.sqlite", HEURISTIC, STATIC).policies
    (measure, *_), (mine, other) = comparison.measures, comparison.groups
    assert first.interval("test_accuracy") == comparison.mean(mine, measure) == mean_interval(values.values())
    assert second.difference(first, "test_accuracy") == comparison.difference(other, measure).interval
    low, _ = stats.t.interval(0.95, 2, 245.5 / 3, stats.sem([*values.values()]))
    assert first.interval("test_accuracy").low == pytest.approx(low)


def test_an_accuracy_s_interval_ends_where_accuracies_do(path):
    fill(path, [finished(seed, value) for seed, value in enumerate((100.0, 100.0, 97.0))], sha("best"), "best")
    assert only(path).policies[0].interval("test_accuracy").high == 100.0


# ---- results


def test_hosts_make_a_seed_and_seeds_make_a_mean(path):
    first, second = only(path).policies
    assert [first.policy, second.policy] == ["heuristic", "static"]  # best first
    assert first.runs[0].values["test_accuracy"] == {seed: 85.0 + seed for seed in range(6)}
    assert (first.interval("test_accuracy").mean, first.interval("test_accuracy").n) == (87.5, 6)
    assert first.interval("test_bits_per_byte").n == 0


def test_differences_are_paired_by_seed(path):
    first, second = only(path).policies
    gap = second.difference(first, "test_accuracy")
    assert (gap.n, gap.mean) == (5, pytest.approx(-8.0))  # seeds 1 to 5: 80 less 86, 87, 88, 89, 90
    assert gap.low < -8.0 < gap.high < 0


def test_versions_of_different_tasks_are_not_compared(path):
    other = {"task": {"name": "cifar10"}}
    fill(path, [finished(seed, 10.0) for seed in range(6)], sha("other"), config=other)
    result = only(path)
    assert result.policies[-1].difference(result.policies[0], "test_accuracy") is None


def test_text_is_judged_by_bits_per_byte_and_fewer_are_better(tmp_path):
    path = tmp_path / "text.sqlite"
    for version, bits in (("worse", 3.0), ("better", 2.5)):
        results = [Measured(seed, {"test_bits_per_byte": [bits], "test_accuracy": [30.0]}, 1.0) for seed in range(5)]
        fill(path, results, sha(version), version)
    result = only(path)
    assert result.main_metric == "test_bits_per_byte"
    assert [row.policy for row in result.versions] == ["better", "worse"]


def test_suites_are_kept_apart(path):
    fill(path, [finished(1, 50.0)], STATIC, "static", suite="long")
    assert [(one.suite, len(one.versions)) for one in results(path)] == [("default", 2), ("long", 1)]
    assert only(path, suite="long").versions[0].values["test_accuracy"] == {1: 50.0}
    assert results(path, suite="distorted") == []  # shipped, and nothing was evaluated by it


def test_of_a_suite_that_was_changed_the_present_content_counts(path):
    from esper.checkpoint.plain import fingerprint
    from esper.config.suite import read_suite

    content = read_suite("default").content()
    with Evaluations(path) as database:
        present = database.add_suite(fingerprint(content), "default", content)
        database.add(1, present, finished(3, 99.0))
        database.add_suite(sha("a later trial"), "default", {})
    assert only(path).versions[0].values["test_accuracy"] == {3: 99.0}


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
    assert [row.policy for row in only(path, target).versions] == policies


def test_the_order_of_the_targets_is_that_of_the_rows(path):
    assert [row.policy for row in only(path, STATIC[:6], "one").versions] == ["static", "heuristic"]


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
        results(path, target)
    assert wanted in str(caught.value)


def test_an_unknown_suite_is_answered_with_the_nearest(path):
    with pytest.raises(EsperError, match=r"suite defualt: there is no such suite; did you mean default\?"):
        results(path, suite="defualt")


def titles(path):
    return {run.sha256: row.title for row in only(path).policies for run in row.runs}


def test_policies_of_one_name_are_told_apart_by_what_differs(path):
    assert set(titles(path).values()) == {"heuristic", "static"}
    rates = {sha(f"ppo{rate}"): f"ppo, learning_rate {rate}" for rate in (0.1, 0.2)}
    for seed, (version, title) in enumerate(rates.items()):
        policy = {"learning_rate": float(title.rpartition(" ")[2])}
        config = {"task": {"name": "digits"}, "seed": seed, "name": f"run{seed}", "policy": policy}
        fill(path, [finished(1, 50.0)], version, "ppo", config=config)
    assert titles(path) == {HEURISTIC: "heuristic", STATIC: "static"} | rates


# ---- policies that several training runs stand for


def trained(path, policy="ppo", runs=((86, 88, 93), (80, 85, 90), (82, 84, 86)), epoch=25, **config):
    """Runs of one configuration on training seeds 0, 1, ...; each has a value for held-out seeds 1, 2, 3, ..."""
    for seed, values in enumerate(runs):
        own = {"task": {"name": "digits"}, "seed": seed, "name": f"run{seed}", **config}
        found = [finished(held_out, float(value)) for held_out, value in enumerate(values, start=1)]
        version = sha(f"{policy}{seed}{epoch}{config}")
        fill(path, found, version, policy, own, f"outputs/{policy}/seed{seed}", epoch=epoch)


def row_of(path, title, *targets):
    (found,) = [row for row in only(path, *targets).policies if row.title == title]
    return found


def test_runs_that_differ_in_their_training_seed_are_one_policy(path):
    trained(path)
    ppo = row_of(path, "ppo")
    assert [run.seed for run in ppo.runs] == [0, 1, 2] and ppo.seeds("test_accuracy") == [1, 2, 3]
    assert ppo.table("test_accuracy").tolist() == [[86, 88, 93], [80, 85, 90], [82, 84, 86]]
    assert ppo.interval("test_accuracy").mean == pytest.approx(86.0)
    assert ppo.interquartile("test_accuracy").mean == pytest.approx(429 / 5)  # without 80, 82 and 90, 93
    assert ppo.interval("test_accuracy").low < 86 < ppo.interval("test_accuracy").high
    assert (ppo.interval("test_accuracy").n, only(path).main_metric) == (3, "test_accuracy")
    alone = row_of(path, "ppo", "outputs/ppo/seed1")
    assert (len(alone.runs), alone.interval("test_accuracy")) == (1, mean_interval((80, 85, 90)))


def test_the_interval_of_a_policy_holds_what_its_training_runs_differ_by(tmp_path):
    """Each run gives the same on every held-out seed: t over nine values would take it for nine."""
    path = tmp_path / "evaluations.sqlite"
    trained(path, runs=[(value,) * 9 for value in (80, 84, 88)])
    found = row_of(path, "ppo").interval("test_accuracy")
    assert (found.low, found.high) == (80.0, 88.0)  # one draw in 27 is the same run thrice


def test_only_held_out_seeds_that_all_runs_have_count_and_a_run_that_failed_counts_not(path):
    trained(path, runs=((86, 88, 93, 70), (80, 85, 90)))
    fill(path, [failed(1)], sha("lost"), "ppo", {"task": {"name": "digits"}, "seed": 9})
    ppo = row_of(path, "ppo")
    assert ppo.seeds("test_accuracy") == [1, 2, 3] and ppo.failed == 1
    assert ppo.table("test_accuracy").shape == (2, 3) and len(ppo.runs) == 3
    assert ppo.interval("test_accuracy").low is None  # of two runs there is none


def test_policies_are_compared_on_the_same_held_out_seeds(path):
    trained(path)
    ppo, heuristic = row_of(path, "ppo"), row_of(path, "heuristic")  # which has 86, 87, 88 on these
    gap = ppo.difference(heuristic, "test_accuracy")
    assert (gap.mean, gap.n) == (pytest.approx(86 - 87), 3) and gap.low < -1 < gap.high
    better = ppo.improvement(heuristic, "test_accuracy")
    assert better.mean == pytest.approx((0.5 + 1 + 1 + 0 + 0 + 1 + 0 + 0 + 0) / 9)
    assert heuristic.improvement(ppo, "test_accuracy").mean == pytest.approx(1 - better.mean)
    assert ppo.improvement(heuristic, "wall_s") is None
    trained(path, "other", task={"name": "cifar10"})
    assert row_of(path, "other").improvement(heuristic, "test_accuracy") is None


def test_fewer_bits_are_an_improvement(tmp_path):
    path = tmp_path / "text.sqlite"
    for version, bits in (("worse", 3.0), ("better", 2.5)):
        fill(path, [Measured(seed, {"test_bits_per_byte": [bits]}, 1.0) for seed in range(5)], sha(version), version)
    better, worse = only(path).policies
    assert (better.title, better.improvement(worse, "test_bits_per_byte").mean) == ("better", 1.0)


def test_checkpoints_of_a_run_are_policies_of_their_own(path):
    trained(path)
    trained(path, epoch=50)
    rows = [row for row in only(path).policies if row.policy == "ppo"]
    assert [[run.checkpoints[0][-2:] for run in row.runs] for row in rows] == [["25"] * 3, ["50"] * 3]
    assert [row.title for row in rows] == ["ppo, seed0@epoch-25", "ppo, seed0@epoch-50"]


def test_what_is_no_number_is_left_out(path):
    trained(path, runs=((86, 88, float("inf")), (80, 85, 90), (82, 84, 86)))
    assert row_of(path, "ppo").seeds("test_accuracy") == [1, 2]


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
        ("test_accuracy=87.5", True),
        ("test_accuracy=0.875,0.9", True),
        ("test_accuracy!=87.5%", False),
    ],
)
def test_a_requirement_is_of_the_mean(path, text, is_met):
    (verdict,) = Requirement.parse(text).judge(results(path, "one"))
    assert verdict.is_met is is_met
    assert verdict.text.startswith("met: " if is_met else "not met: ")


def test_how_a_threshold_was_read_is_said(path):
    assert "(0.7 is read as 70%)" in Requirement.parse("test_accuracy>0.7").judge(results(path))[0].text
    assert "read as" not in Requirement.parse("wall_s<0.7").judge(results(path))[0].text


def test_every_version_must_meet_it_and_none_is_not_enough(path):
    verdicts = Requirement.parse("test_accuracy>0.85").judge(results(path))
    assert [verdict.is_met for verdict in verdicts] == [True, False]
    (nothing,) = Requirement.parse("test_accuracy>0").judge([])
    assert not nothing.is_met and "nothing was evaluated" in nothing.text


def test_seeds_that_failed_are_not_passed_over(path):
    fill(path, [failed(50)], HEURISTIC)
    (verdict,) = Requirement.parse("test_accuracy>0.7").judge(results(path, "one"))
    assert not verdict.is_met and "1 of 7 seeds failed" in verdict.text


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("test_acuracy>0.7", "did you mean test_accuracy?"),
        ("test_accuracy", "expected KEY=VALUE"),
        ("test_accuracy=high", "expected a number after ="),
        ("test_accuracy!=0.7,*", "expected a number after !="),
    ],
)
def test_a_requirement_that_cannot_be_read_is_refused(text, wanted):
    with pytest.raises(ConfigError) as caught:
        Requirement.parse(text)
    assert wanted in str(caught.value)

import math

import numpy as np
import pytest

from esper.errors import EsperError
from esper.nissa.statistics import (
    Interval,
    bootstrap_interval,
    half_width,
    improvement_probability,
    interquartile_mean,
    mean_band,
    mean_gain,
    mean_interval,
    paired_difference,
    table_mean,
    unpaired_difference,
    wilson_interval,
)


def test_interval_of_three_values_by_hand() -> None:
    # mean 2, sample deviation 1, t(2 degrees of freedom, 97.5%) = 4.302653: half width 4.302653 / sqrt(3)
    interval = mean_interval([1.0, 2.0, 3.0])
    assert interval.n == 3
    assert interval.mean == pytest.approx(2.0)
    assert interval.low == pytest.approx(2 - 2.484138, abs=1e-6)
    assert interval.high == pytest.approx(2 + 2.484138, abs=1e-6)


def test_interval_of_three_values_at_ninety_percent_by_hand() -> None:
    # t(2, 95%) = 2.919986, deviation 1
    interval = mean_interval([10.0, 11.0, 12.0], confidence=0.9)
    assert interval.high == pytest.approx(11 + 2.919986 / 3**0.5, abs=1e-6)


def test_an_interval_stays_within_what_a_value_can_be() -> None:
    interval = mean_interval([1.0, 2.0, 3.0], within=(0.0, 100.0))
    assert (interval.mean, interval.low) == (2.0, 0.0)
    assert mean_interval([98.0, 99.0, 100.0], within=(0.0, 100.0)).high == 100.0


def test_paired_difference_is_that_of_the_pairs() -> None:
    difference = paired_difference([3.0, 5.0, 9.0], [1.0, 2.0, 5.0])  # 2, 3, 4
    assert difference.mean == pytest.approx(3.0)
    assert difference.low == pytest.approx(3 - 2.484138, abs=1e-6)


def test_unpaired_differences_are_welch_s() -> None:
    from scipy.stats import ttest_ind

    draw = np.random.default_rng(0)
    first, second = draw.normal(3, 2, 8), draw.normal(1, 0.5, 5)
    expected = ttest_ind(first, second, equal_var=False).confidence_interval()
    found = unpaired_difference(first.tolist(), second.tolist())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert unpaired_difference([1.0, 1.0, 1.0], [0.0, 0.0, 0.0]).low == 1.0
    assert unpaired_difference([1.0, 2.0], [0.0, 0.0, 0.0]).low is None
    assert unpaired_difference([], [0.0]).mean is None


def test_one_half_width_for_figures_bands_and_what_is_told_by_its_deviation() -> None:
    values = np.array([3.0, 5.0, 9.0, 4.0])
    half = half_width(values.std(ddof=1), 4)
    found = mean_interval(values)
    assert (found.low, found.high) == pytest.approx((5.25 - half, 5.25 + half))
    assert mean_band(values[:, None])[1][0] == pytest.approx(5.25 - half)
    assert np.isnan(half_width(1.0, np.array([0, 1, 2]))).all()


def test_pairing_removes_what_members_share() -> None:
    assert paired_difference([60.0, 70.0, 80.0], [59.0, 69.0, 79.0]).high == pytest.approx(1.0)


@pytest.mark.parametrize("values", [[71.5], [70.5, 72.5]])
def test_one_value_or_two_have_no_interval(values: list[float]) -> None:
    interval = mean_interval(values)
    assert interval.to_dict() == {"mean": 71.5, "low": None, "high": None, "n": len(values)}
    assert interval.text(unit="%") == f"71.5% (n={len(values)})"


def test_nothing_measured_has_no_mean() -> None:
    assert mean_interval([None, math.nan]).to_dict() == {"mean": None, "low": None, "high": None, "n": 0}
    assert mean_interval([]).text() == "-"


def test_missing_values_leave_their_pair_out() -> None:
    assert paired_difference([3.0, None, 9.0, 4.0], [1.0, 2.0, math.nan, 1.0]).to_dict()["n"] == 2


def test_lists_that_are_no_pairs_are_refused() -> None:
    with pytest.raises(EsperError, match="3 and 1"):
        paired_difference([1.0, 2.0, 3.0], [1.0])


def test_text_of_an_interval() -> None:
    interval = mean_interval([1.0, 2.0, 3.0])
    assert interval.text(unit="%") == "2.0% [-0.5, 4.5]"
    assert interval.text(signed=True) == "+2.0 [-0.5, +4.5]"
    assert mean_interval([-1.0, 0.0, 1.0]).text(signed=True) == "0.0 [-2.5, +2.5]"


def test_band_is_the_interval_epoch_by_epoch() -> None:
    values = np.array([[1.0, 5.0, np.nan, np.nan], [2.0, np.nan, np.nan, 3.0], [3.0, 7.0, np.nan, np.nan]])
    mean, low, high = mean_band(values)
    assert np.isfinite(low).tolist() == [True, False, False, False]
    for epoch in range(4):
        interval = mean_interval(values[:, epoch])
        expected = [np.nan if x is None else x for x in (interval.mean, interval.low, interval.high)]
        np.testing.assert_allclose([mean[epoch], low[epoch], high[epoch]], expected, rtol=1e-12)


@pytest.mark.parametrize(
    "successes, trials, low, high",
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (58, 64, 0.8098, 0.9563),
        (57, 64, 0.7910, 0.9457),
        (1, 2, 0.0945, 0.9055),
    ],
)
def test_wilson_s_interval(successes: int, trials: int, low: float, high: float) -> None:
    found = wilson_interval(successes, trials)
    assert found.mean == successes / trials and found.n == trials
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-3), pytest.approx(high, abs=1e-3))


def test_wilson_s_interval_of_nothing_and_of_nonsense() -> None:
    assert wilson_interval(0, 0).low is None
    with pytest.raises(EsperError, match="3 of 2 trials"):
        wilson_interval(3, 2)


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.04, 0.62, "+0.3 [+0.04, +0.6]"),
        (-0.31, -0.004, "+0.3 [-0.3, -0.004]"),
        (-0.02, 0.08, "+0.3 [-0.02, +0.1]"),
        (0.0, 0.0004, "+0.3 [0.0, 0.0]"),
        (0.06, 1.0, "+0.3 [+0.1, +1.0]"),
    ],
)
def test_a_bound_that_would_read_as_zero_tells_its_side(low: float, high: float, text: str) -> None:
    assert Interval(0.3, low, high, 9).text(signed=True) == text


def test_a_bound_that_would_read_as_zero_tells_its_side_without_signs_too() -> None:
    assert Interval(0.3, 0.02, 1.0, 9).text(unit="%") == "0.3% [0.02, 1.0]"
    assert Interval(0.003, 0.0004, 1.0, 9).text(decimals=3) == "0.003 [0.0004, 1.000]"


# ---- over training runs and held-out seeds

RUNS = np.array([[1.0, 2.5, 3.0, 4.0], [5.0, 6.0, 7.0, 100.0], [0.0, 8.0, 9.0, 10.0]])  # [R, S]


def test_an_interquartile_mean_is_that_of_the_middle_half_by_hand() -> None:
    assert interquartile_mean(RUNS) == (3 + 4 + 5 + 6 + 7 + 8) / 6  # 0, 1, 2.5 and 9, 10, 100 are left out
    assert interquartile_mean(RUNS[:1]) == 2.75 and interquartile_mean(RUNS[1:2, :3]) == 6.0  # of three, none is
    assert interquartile_mean(np.stack([RUNS, RUNS + 1])).tolist() == [5.5, 6.5]


def test_an_improvement_is_counted_seed_by_seed_over_all_pairs_of_runs_by_hand() -> None:
    first, second = np.array([[1.0, 5.0], [3.0, 5.0]]), np.array([[2.0, 5.0], [3.0, 0.0], [9.0, 9.0]])
    # Seed 0: 1 beats none of 2, 3, 9; 3 beats 2 and ties with 3. Seed 1, twice: 5 ties with 5, beats 0.
    assert improvement_probability(first, second) == pytest.approx((1.5 + 3.0) / 12)
    assert improvement_probability(second, first) == pytest.approx(1 - 4.5 / 12)


@pytest.mark.parametrize(
    ("table", "low", "high", "n"),
    [
        # Of 27 equally likely draws, one has run 0 alone and one run 2 alone: each 3.7%, and so above 2.5%.
        (np.array([[1.0] * 5, [2.0] * 5, [3.0] * 5]), 1.0, 3.0, 3),
        (np.array([[1.0, 2.0, 3.0]]), 1.0, 3.0, 3),  # a single run: seeds are drawn
        (np.array([[1.0], [2.0], [3.0]]), 1.0, 3.0, 3),  # a single seed: runs are
        (np.array([[1.0] * 9, [3.0] * 9]), None, None, 2),
        (np.array([[1.0]]), None, None, 1),
    ],
)
def test_a_bootstrap_draws_whole_runs_and_whole_seeds(table: np.ndarray, low: float, high: float, n: int) -> None:
    found = bootstrap_interval(table_mean, table)
    assert (found.low, found.high, found.n) == (low, high, n) and found.mean == table.mean()


def test_a_bootstrap_of_nothing_is_nothing_and_the_same_values_have_the_same_one() -> None:
    assert bootstrap_interval(table_mean, np.empty((0, 0))).n == 0
    assert bootstrap_interval(mean_gain, RUNS, np.empty((0, 4))).mean is None
    assert bootstrap_interval(interquartile_mean, RUNS) == bootstrap_interval(interquartile_mean, RUNS.copy())


def test_of_many_seeds_a_bootstrapped_mean_has_nearly_the_interval_of_t() -> None:
    values = np.random.default_rng(0).normal(80, 3, 200)
    found, expected = bootstrap_interval(table_mean, values[None]), mean_interval(values)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.03)
    wide = bootstrap_interval(table_mean, values[None], confidence=0.8)
    assert found.low < wide.low < wide.high < found.high


def test_policies_stay_paired_by_seed() -> None:
    """What seeds differ by cancels: each of these runs is one point above on every seed."""
    seeds = np.random.default_rng(0).normal(80, 10, 20)
    found = bootstrap_interval(mean_gain, np.stack([seeds + 1] * 3), seeds[None])
    assert (found.low, found.high) == pytest.approx((1.0, 1.0))


@pytest.mark.slow
def test_figures_and_intervals_are_those_of_rliable() -> None:
    """Where the two draw alike: runs on one seed, or seeds of one run."""
    library = pytest.importorskip("rliable.library", reason="no part of esper: pip install rliable")
    from rliable import metrics

    draw = np.random.default_rng(1)
    first, second = draw.normal(80, 3, (7, 20)), draw.normal(81, 3, (5, 20))
    assert interquartile_mean(first) == pytest.approx(metrics.aggregate_iqm(first))
    assert improvement_probability(first, second) == pytest.approx(metrics.probability_of_improvement(first, second))
    for statistic, theirs, tables in (
        (interquartile_mean, metrics.aggregate_iqm, (first[:, :1],)),
        (interquartile_mean, metrics.aggregate_iqm, (first[:1],)),
        (table_mean, metrics.aggregate_mean, (first[:1],)),
        (improvement_probability, metrics.probability_of_improvement, (first[:, :1], second[:, :1])),
    ):
        columns = [table.reshape(-1, 1) for table in tables]
        given = columns if len(columns) > 1 else columns[0]
        _, intervals = library.get_interval_estimates(
            {"it": given}, lambda *given, theirs=theirs: np.array([theirs(*given)]), reps=20_000
        )
        found = bootstrap_interval(statistic, *tables)
        assert (found.low, found.high) == pytest.approx(tuple(intervals["it"].ravel()), abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("runs", "share"), [(3, 0.85), (5, 0.90), (10, 0.94)])
def test_the_truth_lies_in_a_bootstrapped_interval_as_often_as_docs_evaluation_says(runs: int, share: float) -> None:
    """Runs, seeds and what is left of either vary alike; of 300 trials."""
    draw = np.random.default_rng(runs)
    held = 0
    for _ in range(300):
        table = draw.normal(80, 1, (runs, 1)) + draw.normal(0, 1, (1, 20)) + draw.normal(0, 1, (runs, 20))
        found = bootstrap_interval(table_mean, table)
        assert found.low is not None and found.high is not None
        held += found.low <= 80 <= found.high
    assert held / 300 == pytest.approx(share, abs=0.04)

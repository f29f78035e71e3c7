"""Rewards: returns against a calculation by hand, exploits against honest behaviour, bounds."""

import itertools
import math
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.errors import ConfigError
from esper.leyline import EpochReport, SeedStage, SeedStateReport
from esper.simic.rewards.config import (
    REWARDS,
    ContributionRewardConfig,
    MinimalRewardConfig,
    RewardConfig,
    SparseRewardConfig,
)
from esper.simic.rewards.functions import MAX_DOUBLINGS, build_reward

ROOT = Path(__file__).parents[3]
TRAINING, BLENDING = SeedStage.TRAINING, SeedStage.BLENDING
PROBATION, FOSSIL = SeedStage.PROBATIONARY, SeedStage.FOSSILIZED
EPOCHS = 12
DISCOUNTS = [1.0, 0.99, 0.9]


def seed(stage=SeedStage.DORMANT, contribution=None, contribution_loss=None):
    return SeedStateReport("mid", stage, contribution=contribution, contribution_loss=contribution_loss)


def report(epoch, accuracy=50.0, seeds=(), parameters=1000, flops=10_000, **values):
    slots = {f"slot{number}": held for number, held in enumerate(seeds)}
    return EpochReport(0, epoch, EPOCHS, 1.0, accuracy, 1.0, accuracy, accuracy, parameters, flops, slots, **values)


def episode(accuracies, lives=(), size=1.5, retired_at=None):
    """Reports of a whole episode: accuracy by epoch, and what stands in the slot (None: nothing) with its worth."""
    lives = [*lives, *[(None, None)] * (EPOCHS + 1 - len(lives))]
    reports = []
    for epoch, (accuracy, (stage, worth)) in enumerate(zip(accuracies, lives, strict=True)):
        factor = 1.0 if stage is None else size
        held = [] if stage is None else [seed(stage, worth, None if worth is None else worth / 20)]
        reports.append(report(epoch, accuracy, held, round(1000 * factor), round(10_000 * factor)))
        if epoch == retired_at:
            reports[-1] = replace(reports[-1], retired=True, rolled_back=True, rollbacks=2)
            return reports
    return reports


def total(chosen, reports):
    reward = build_reward(chosen)
    pairs = itertools.pairwise(reports)
    return math.fsum(chosen.discount**step * reward(before, after) for step, (before, after) in enumerate(pairs))


def every(discount):
    """Each reward at this discount, with rent."""
    return [kind(discount=discount) for kind in REWARDS.values()]


# ---- what the return is

any_seed = st.builds(seed, st.sampled_from(SeedStage), st.none() | st.floats(-80, 80), st.none() | st.floats(-9, 9))


@st.composite
def any_episode(draw):
    reports = [report(0, draw(st.floats(0, 100)))]
    end = draw(st.integers(1, EPOCHS))
    for epoch in range(1, end + 1):
        reports.append(
            report(
                epoch,
                draw(st.floats(0, 100)),
                draw(st.lists(any_seed, min_size=3, max_size=3)),
                draw(st.integers(900, 9000)),
                draw(st.integers(9000, 90_000)),
                rolled_back=draw(st.booleans()),
                retired=epoch == end < EPOCHS,
            )
        )
    return reports


def promised(chosen, reports):
    """docs/rewards.md, summed epoch by epoch: outcome less rent less penalties; a retired member stays as it is."""
    to_the_end = reports + [replace(reports[-1], rolled_back=False)] * (EPOCHS + 1 - len(reports))
    last = to_the_end[-chosen.final_epochs :]
    value = chosen.discount ** (EPOCHS - 1) * sum(held.val_accuracy for held in last) / len(last) / 100
    for step, held in enumerate(to_the_end[1:]):
        rent = chosen.parameter_rent * math.log2(held.parameter_count / reports[0].parameter_count)
        rent += chosen.compute_rent * math.log2(held.flops_per_sample / reports[0].flops_per_sample)
        value -= chosen.discount**step * (rent / EPOCHS + chosen.rollback_penalty * held.rolled_back)
    return value


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(reports=any_episode(), discount=st.sampled_from(DISCOUNTS), final_epochs=st.integers(1, EPOCHS))
def test_return_is_outcome_less_rent_less_penalties_and_shaping_sums_to_nothing(reports, discount, final_epochs):
    shaped = ContributionRewardConfig(discount=discount, final_epochs=final_epochs, shaping_weight=1.0)
    assert total(shaped, reports) == pytest.approx(promised(shaped, reports), abs=1e-9)
    plain = replace(shaped, shaping_weight=0.0)
    assert total(shaped, reports) == pytest.approx(total(plain, reports), abs=1e-9)


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(reports=any_episode(), discount=st.sampled_from(DISCOUNTS))
def test_sparse_is_the_outcome_and_minimal_adds_up_to_what_was_gained(reports, discount):
    sparse = SparseRewardConfig(discount=discount, rollback_penalty=0.0)
    assert total(sparse, reports) == pytest.approx(discount ** (EPOCHS - 1) * reports[-1].val_accuracy / 100)
    minimal = MinimalRewardConfig(rollback_penalty=0.0, parameter_rent=0.0, compute_rent=0.0)
    gained = reports[-1].val_accuracy - reports[0].val_accuracy
    assert total(minimal, reports) == pytest.approx(gained / 100, abs=1e-9)


def test_single_steps_by_hand():
    reward = build_reward(ContributionRewardConfig(shaping_weight=0.5, final_epochs=2, discount=0.5))
    live = [seed(BLENDING, 10.0, 0.4), seed(PROBATION, 90.0), seed(TRAINING, 7.0), seed(SeedStage.CULLED, 7.0)]
    bare, measured = report(8), report(9, 60.0, live)
    assert reward(bare, measured) == pytest.approx(0.5 * 0.5 * (0.14 + 0.5))
    assert reward(measured, report(10)) == pytest.approx(-0.5 * 0.64)
    assert reward(report(10), report(11, 60.0)) == pytest.approx(0.5 * 0.6 / 2)  # as if it fell due at epoch 12
    assert reward(report(11), report(12, 62.0, live)) == pytest.approx(0.62 / 2)
    rented = build_reward(ContributionRewardConfig(parameter_rent=0.012, compute_rent=0.12))
    assert rented(report(2), report(3, parameters=2000)) == pytest.approx(-10 * 0.001)
    assert rented(report(2, flops=20_000), report(3)) == pytest.approx(10 * 0.01)
    assert rented(report(2), report(3, flops=10**15)) == pytest.approx(-10 * 0.01 * MAX_DOUBLINGS)
    assert rented(report(2), report(3, rolled_back=True)) == -0.1


# ---- what cannot be gained

RISING = [10.0, *(40.0 + 3 * epoch for epoch in range(EPOCHS))]
RAISED = [*RISING[:6], *(accuracy + 5 for accuracy in RISING[6:])]
HONEST = [(None, None), *[(TRAINING, None)] * 3, (BLENDING, 2.0), (BLENDING, 4.0), *[(PROBATION, 6.0)] * 3]


@pytest.mark.parametrize("discount", DISCOUNTS)
def test_a_seed_that_helps_pays_more_than_none(discount):
    lives = [*HONEST, *[(FOSSIL, None)] * 4]
    for chosen in every(discount):
        assert total(chosen, episode(RAISED, lives)) > total(chosen, episode(RISING))


@pytest.mark.parametrize("discount", DISCOUNTS)
def test_fossilising_early_locks_nothing_in(discount):
    """A lucky measurement is turned into a fossil at once: the seed is harmful, and stays."""
    lucky = [*HONEST[:6], (PROBATION, 40.0), *[(FOSSIL, None)] * 6]
    culled = [*HONEST[:6], (PROBATION, 40.0), (PROBATION, -5.0), *[(None, None)] * 5]
    harmed = [*RISING[:7], *(accuracy - 5 for accuracy in RISING[7:])]
    freed = [*harmed[:8], *RISING[8:]]
    for chosen in every(discount):
        assert total(chosen, episode(harmed, lucky)) < total(chosen, episode(freed, culled))
        assert total(chosen, episode(harmed, lucky)) < total(chosen, episode(RISING))


@pytest.mark.parametrize("discount", DISCOUNTS)
def test_fossilising_is_neither_paid_nor_punished_whenever_it_comes(discount):
    returns = []
    for epochs_on_probation in (1, 3, 7):
        lives = [*HONEST[:6], *[(PROBATION, 30.0)] * epochs_on_probation, *[(FOSSIL, None)] * (7 - epochs_on_probation)]
        returns.append([total(chosen, episode(RAISED, lives)) for chosen in every(discount)])
    assert returns[1] == pytest.approx(returns[0]) and returns[2] == pytest.approx(returns[0])


@pytest.mark.parametrize("discount", DISCOUNTS)
@pytest.mark.parametrize("worth", [-10.0, 0.0, 30.0])
def test_parking_a_seed_on_probation_pays_nothing_over_a_fossil(discount, worth):
    parked, kept = [*HONEST[:6], *[(PROBATION, worth)] * 7], [*HONEST[:6], (PROBATION, 6.0), *[(FOSSIL, None)] * 6]
    for chosen in every(discount):
        assert total(chosen, episode(RAISED, parked)) == pytest.approx(total(chosen, episode(RAISED, kept)))


@pytest.mark.parametrize("discount", DISCOUNTS)
@pytest.mark.parametrize("worth", [5.0, 60.0])
def test_churn_pays_its_rent_for_nothing(discount, worth):
    cycle = [(TRAINING, None), (BLENDING, worth), (None, None)]
    churned, quiet = episode(RISING, [(None, None), *cycle * 4]), episode(RISING)
    for chosen in every(discount):
        rented = isinstance(chosen, MinimalRewardConfig)
        assert (
            total(chosen, churned) < total(chosen, quiet) if rented else total(chosen, churned) == total(chosen, quiet)
        )
    free = ContributionRewardConfig(discount=discount, parameter_rent=0.0, compute_rent=0.0)
    assert total(free, churned) == pytest.approx(total(free, quiet))


@pytest.mark.parametrize("discount", DISCOUNTS)
@pytest.mark.parametrize("stage", [TRAINING, PROBATION, FOSSIL])
def test_riding_the_hosts_own_improvement_pays_only_rent(discount, stage):
    ridden = [(None, None), *[(stage, 0.0 if stage is PROBATION else None)] * EPOCHS]
    for chosen in every(discount):
        difference = total(chosen, episode(RISING, ridden)) - total(chosen, episode(RISING))
        assert difference < 0 if isinstance(chosen, MinimalRewardConfig) else difference == 0


@pytest.mark.parametrize("discount", DISCOUNTS)
def test_ending_early_on_purpose_pays_nothing(discount):
    """Even where the member stands as well as it ever will, and where nothing was to be gained by going on."""
    level = [10.0, *[80.0] * EPOCHS]
    for chosen in every(discount):
        stayed = total(chosen, episode(level))
        for epoch in range(1, EPOCHS + 1):
            assert total(chosen, episode(level, retired_at=epoch)) < stayed


@pytest.mark.parametrize("discount", DISCOUNTS)
def test_a_rollback_is_no_way_to_keep_what_it_undoes(discount):
    """Put back to before the blend, with the worth of the seed already counted, and blended again."""
    again = [*HONEST[:7], (BLENDING, None), (BLENDING, 4.0), *[(PROBATION, 30.0)] * 4]
    reports = episode(RISING, again)
    undone = [*reports[:7], replace(reports[7], rolled_back=True), *reports[8:]]
    for chosen in every(discount):
        loss = total(chosen, reports) - total(chosen, undone)
        assert loss == pytest.approx(discount**6 * chosen.rollback_penalty)


# ---- bounds and settings

wild = st.floats() | st.sampled_from([math.nan, math.inf, -math.inf])
wild_count = st.integers(-10, 10**15) | st.sampled_from([0, 10**15])
wild_seed = st.builds(seed, st.sampled_from(SeedStage), st.none() | wild, st.none() | wild)
wild_report = st.builds(
    EpochReport,
    member=st.just(0),
    epoch=st.integers(0, 20),
    max_epochs=st.integers(0, 40),
    train_loss=wild,
    train_accuracy=wild,
    val_loss=wild,
    val_accuracy=wild,
    best_val_accuracy=wild,
    parameter_count=wild_count,
    flops_per_sample=wild_count,
    slots=st.dictionaries(st.sampled_from("abc"), wild_seed),
    rolled_back=st.booleans(),
    retired=st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(before=wild_report, after=wild_report, discount=st.floats(0.01, 1.0))
def test_finite_and_bounded_whatever_is_reported(before, after, discount):
    for chosen in every(discount):
        rents = getattr(chosen, "parameter_rent", 0.0) + getattr(chosen, "compute_rent", 0.0)
        seeds = 2 * 3 * getattr(chosen, "shaping_weight", 0.0) * getattr(chosen, "worth_limit", 0.0)
        # Of one episode the epochs left are at most all of it; these reports may be of two.
        epochs = max(1.0, (after.max_epochs - before.epoch) / max(1, after.max_epochs))
        bound = 1 + chosen.rollback_penalty + MAX_DOUBLINGS * rents * epochs + seeds
        value = build_reward(chosen)(before, after)
        assert isinstance(value, float) and math.isfinite(value) and abs(value) <= bound + 1e-9


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300, -1e300])
def test_figures_that_are_not_finite_count_as_nothing_or_as_the_bound(value):
    unsound = report(EPOCHS, value, [seed(PROBATION, value, value)], parameters=10**15, flops=0)
    going_on = report(3, value, [seed(PROBATION, value, value), seed(PROBATION, value, -value)], flops=10**15)
    for chosen in every(1.0):
        rewards = [build_reward(chosen)(report(2), going_on), build_reward(chosen)(going_on, unsound)]
        assert all(math.isfinite(reward) and abs(reward) < 1.3 for reward in rewards)


@pytest.mark.parametrize("chosen", every(1.0))
def test_nothing_comes_after_the_end(chosen):
    reward = build_reward(chosen)
    assert reward(report(5, retired=True), report(6, 90.0, retired=True)) == 0
    assert reward(report(EPOCHS), report(EPOCHS, 90.0)) == 0


@pytest.mark.parametrize("name", REWARDS)
def test_files_hold_the_defaults_and_the_page_explains_them(name):
    lines = (ROOT / "conf" / "reward" / f"{name}.yaml").read_text()
    values = yaml.safe_load(lines)
    assert values.pop("defaults") == [{"/schema/reward@_here_": name}, "_self_"]
    assert REWARDS[name](**values) == REWARDS[name]() and values["name"] == name
    column = 2 + ["contribution", "minimal", "sparse"].index(name)
    rows = [
        line.split("|") for line in (ROOT / "docs" / "rewards.md").read_text().splitlines() if line.startswith("| `")
    ]
    table = {row[1].strip(" `"): row[column].strip() for row in rows if len(row) == 7}
    assert {key: str(value) for key, value in values.items() if key != "name"} == {k: v for k, v in table.items() if v}
    assert f"reward={name}" in (ROOT / "docs" / "rewards.md").read_text()


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        (kind, field.name, value)
        for kind in REWARDS.values()
        for field in fields(kind)
        if field.name != "name"
        for value in (-0.5, math.nan, 2e6)
    ],
)
def test_a_value_out_of_range_names_its_key(kind, key, value):
    with pytest.raises(ConfigError, match=rf"reward\.{key}={re.escape(str(value))}: expected a value from"):
        kind(**{key: value})


def test_settings_of_no_reward_are_told_the_names():
    with pytest.raises(ConfigError, match=r"reward\.name='other': expected one of contribution, minimal, sparse"):
        build_reward(RewardConfig(name="other"))

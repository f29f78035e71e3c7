"""Observations: what each number says, unknowns, courses, speed; masks by the one rule."""

import json
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.errors import EsperError
from esper.leyline import Action, ActionLayout, EpochReport, Operation, SeedStage, SeedStateReport
from esper.tamiyo import legal_actions
from esper.tamiyo.feature_table import HOST_FEATURES, SLOT_FEATURES, page
from esper.tamiyo.observation import ObservationEncoder, action_masks

SLOTS = ("early", "mid", "late")
CATALOGUE = [("norm", 128), ("conv_light", 36_992)]
LAYOUT = ActionLayout(SLOTS, ("norm", "conv_light", "conv_heavy"), ("linear", "gated"))
PAGE = Path(__file__).parents[2] / "docs" / "observations.md"

any_number = st.floats(allow_nan=True, allow_infinity=True)
any_count = st.integers(0, 10**12)
any_seed = st.builds(
    SeedStateReport,
    slot_id=st.just(""),
    stage=st.sampled_from(SeedStage),
    blueprint_id=st.sampled_from(["", "norm", "conv_light", "unheard_of"]),
    alpha=any_number,
    epochs_in_stage=any_count,
    epochs_total=any_count,
    improvement=any_number,
    contribution=st.none() | any_number,
    contribution_loss=st.none() | any_number,
    gradient_norm=any_number,
    gradient_health=any_number,
    has_vanishing=st.booleans(),
    has_exploding=st.booleans(),
    gradient_norm_ratio=any_number,
    parameter_count=any_count,
    is_healthy=st.booleans(),
    can_advance=st.booleans(),
)
any_report = st.builds(
    EpochReport,
    member=st.integers(0, 2),
    epoch=st.integers(0, 30),
    max_epochs=st.integers(0, 30),
    train_loss=any_number,
    train_accuracy=any_number,
    val_loss=any_number,
    val_accuracy=any_number,
    best_val_accuracy=any_number,
    parameter_count=any_count,
    flops_per_sample=any_count,
    slots=st.fixed_dictionaries(dict.fromkeys(SLOTS, any_seed)),
    rolled_back=st.booleans(),
    rollbacks=st.integers(0, 5),
    retired=st.booleans(),
    is_twin=st.booleans(),
)


def encoder():
    return ObservationEncoder(SLOTS, CATALOGUE)


def seen(encoder, *reports):
    """The last report's features by name."""
    for report in reports:
        row = encoder.encode([report])
    return dict(zip(encoder.names, row[0].tolist(), strict=True))


def test_names_are_distinct_and_one_for_each_number(report):
    names = encoder().names
    assert len(set(names)) == len(names) == len(HOST_FEATURES) + 3 * (len(SLOT_FEATURES) + 2)
    observation = encoder().encode([report(epoch=0), report(epoch=0, member=1)])
    assert observation.shape == (2, len(names)) and observation.dtype == np.float32
    assert encoder().encode([]).shape == (0, len(names))


def test_page_is_in_step_with_the_code():
    assert PAGE.read_text() == page(), "python -m esper.tamiyo.feature_table > docs/observations.md"


def test_the_host_by_hand(report):
    host = seen(
        encoder(),
        report(0, accuracy=10.0, loss=2.0, train_loss=math.nan, train_accuracy=math.nan),
        report(1, accuracy=40.0, loss=1.5),
        report(
            2,
            accuracy=36.0,
            loss=1.4,
            train_accuracy=46.0,
            best_val_accuracy=40.0,
            parameter_count=4000,
            flops_per_sample=5000,
            rollbacks=1,
            rolled_back=True,
        ),
    )
    expected = {
        "progress": 2 / 25,
        "epochs_left": math.log(24) / math.log(101),
        "train_known": 1,
        "train_loss": math.log(2.4) / 2,
        "train_accuracy": 0.46,
        "val_known": 1,
        "val_loss": math.log(2.4) / 2,
        "val_accuracy": 0.36,
        "below_best": math.tanh(0.4),
        "gap_known": 1,
        "generalisation_gap": math.tanh(0.5),
        "change_known": 1,
        "accuracy_change": math.tanh(-0.4),
        "loss_change": math.tanh(-0.2),
        "smoothed_improvement": math.tanh((9 - 0.3 * 13) / 5),
        "plateau": math.log(2) / math.log(101),
        "host_known": 1,
        "parameter_growth": 0.5,
        "compute_growth": -0.25,
        "rolled_back": 1,
        "rollbacks": 0.5,
        "retired": 0,
    }
    assert list(expected) == [feature.name for feature in HOST_FEATURES]
    assert {name: host[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_a_slot_by_hand(seed, report):
    probation = seed(
        SeedStage.PROBATIONARY,
        alpha=1.0,
        epochs_in_stage=2,
        epochs_total=9,
        improvement=-5.0,
        contribution=10.0,
        contribution_loss=0.25,
        gradient_norm=0.01,
        gradient_norm_ratio=0.1,
        gradient_health=0.75,
        has_vanishing=True,
        parameter_count=250,
    )
    features = seen(encoder(), report(0), report(9, mid=probation))
    expected = {
        f"stage_{stage.name.lower()}": float(stage is SeedStage.PROBATIONARY) for stage in SeedStage if stage
    } | {
        "alpha": 1,
        "epochs_in_stage": math.log(3) / math.log(101),
        "epochs_total": math.log(10) / math.log(101),
        "improvement": math.tanh(-0.25),
        "contribution_known": 1,
        "contribution": math.tanh(0.5),
        "contribution_loss_known": 1,
        "contribution_loss": math.tanh(0.25),
        "gradient_known": 1,
        "gradient_norm": 0.2,
        "gradient_ratio": -0.5,
        "gradient_health": 0.75,
        "vanishing": 1,
        "exploding": 0,
        "healthy": 1,
        "can_advance": 1,
        "parameter_share": 0.25,
        "blueprint_norm": 0,
        "blueprint_conv_light": 1,
    }
    assert {name: features[f"mid.{name}"] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert [name for name in features if name.startswith("mid.")] == [f"mid.{name}" for name in expected]


def test_a_gradient_is_known_where_a_seed_has_one(seed, report):
    left = seed(SeedStage.EMBARGOED, gradient_norm=3.0, gradient_health=0.2, parameter_count=500)
    features = seen(encoder(), report(0), report(5, mid=left))
    assert features["mid.stage_embargoed"] == features["mid.blueprint_conv_light"] == 1
    assert not any(features[f"mid.{name}"] for name in ("gradient_known", "gradient_health", "parameter_share"))
    gone = seed(SeedStage.TRAINING, gradient_norm=0.0, gradient_health=0.5, has_vanishing=True)
    new = seed(SeedStage.TRAINING, gradient_norm=0.0)
    features = seen(encoder(), report(0), report(5, mid=gone, late=new))
    assert (features["mid.gradient_known"], features["mid.gradient_norm"]) == (1, -1)
    assert (features["late.gradient_known"], features["late.gradient_norm"]) == (0, 0)


@pytest.mark.parametrize("contribution", [None, math.nan])
def test_what_is_not_measured_is_told_from_zero(seed, report, contribution):
    def features(**values):
        return seen(encoder(), report(0), report(5, mid=seed(SeedStage.BLENDING, **values)))

    unknown, zero = features(contribution=contribution), features(contribution=0.0)
    assert unknown["mid.contribution"] == zero["mid.contribution"] == 0
    assert (unknown["mid.contribution_known"], zero["mid.contribution_known"]) == (0, 1)


def test_a_host_whose_start_was_not_seen_says_so(report):
    features = seen(encoder(), report(7, parameter_count=4000))
    assert features["host_known"] == features["parameter_growth"] == features["change_known"] == 0
    assert seen(encoder(), report(0), report(7))["host_known"] == 1


def test_a_new_episode_begins_at_epoch_0_for_its_member_alone(report):
    old = encoder()
    for epoch in range(9):
        old.encode([report(epoch, member, accuracy=20.0 + epoch) for member in (0, 1)])
    again = old.encode([report(0, 0, accuracy=15.0), report(9, 1, accuracy=29.0)])
    assert np.array_equal(again[0], encoder().encode([report(0, 0, accuracy=15.0)])[0])
    place = old.names.index("change_known")
    assert again[:, place].tolist() == [0, 1]


def test_members_do_not_touch_each_other_and_asking_twice_changes_nothing(report):
    together, alone = encoder(), encoder()
    for epoch in range(5):
        rows = [report(epoch, member, accuracy=10.0 * member + epoch**2) for member in (2, 0, 1)]
        both = together.encode(rows)
        assert np.array_equal(together.encode(rows[:2]), both[:2])
        assert np.array_equal(alone.encode([rows[1]])[0], both[1])


def test_continues_exactly_from_its_state(report):
    def reports(epoch):
        return [report(epoch, m, accuracy=30.0 + (epoch * (m + 3)) % 7, parameter_count=1000 + epoch) for m in (0, 1)]

    whole, second = encoder(), encoder()
    for epoch in range(6):
        whole.encode(reports(epoch))
    state = json.loads(json.dumps(whole.state_dict(), allow_nan=False))
    second.load_state_dict(state)
    assert second.state_dict() == state
    for epoch in range(6, 12):
        assert np.array_equal(second.encode(reports(epoch)), whole.encode(reports(epoch)))
    unseen = encoder()
    unseen.encode([report(4)])
    second.load_state_dict(json.loads(json.dumps(unseen.state_dict(), allow_nan=False)))
    assert seen(second, report(5))["host_known"] == 0


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(reports=st.lists(any_report, max_size=4))
def test_any_report_gives_finite_numbers_within_one_and_zero_where_unknown(reports):
    encode = encoder()
    row = dict(zip(encode.names, encode.encode(reports).T, strict=True))
    assert all(np.isfinite(column).all() and (abs(column) <= 1).all() for column in row.values())
    for prefix, features in [("", HOST_FEATURES), *((f"{slot}.", SLOT_FEATURES) for slot in SLOTS)]:
        for feature in features:
            if feature.flag:
                flag = row[prefix + feature.flag]
                assert np.isin(flag, (0, 1)).all()
                assert not row[prefix + feature.name][flag == 0].any()
    json.dumps(encode.state_dict(), allow_nan=False)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(reports=st.lists(any_report, max_size=4))
def test_masks_are_the_rule_of_legal_actions(reports):
    masks = action_masks(reports, LAYOUT)
    assert masks.shape == (len(reports), len(LAYOUT)) and masks.dtype == np.bool_
    for mask, report in zip(masks, reports, strict=True):
        allowed = legal_actions(report, LAYOUT.blueprints, LAYOUT.blends)
        assert {LAYOUT.actions[number] for number in np.flatnonzero(mask)} == set(allowed)


def test_masks_by_hand(seed, report):
    member = report(early=seed(SeedStage.TRAINING, can_advance=False), mid=seed(SeedStage.FOSSILIZED))
    (mask,) = action_masks([member], LAYOUT)
    allowed = [LAYOUT.actions[number] for number in np.flatnonzero(mask)]
    assert allowed[0].operation is Operation.WAIT and allowed[1] == Action(Operation.CULL, "early")
    assert {(action.operation, action.slot) for action in allowed[2:]} == {(Operation.GERMINATE, "late")}
    assert len(allowed) == 2 + 3 * 2


def test_a_member_of_another_host_is_told_apart(report):
    odd = report(member=3)
    del odd.slots["mid"]
    for ask in (lambda: encoder().encode([odd]), lambda: action_masks([odd], LAYOUT)):
        with pytest.raises(EsperError, match=r"member 3 has no slot 'mid': it has early, late"):
            ask()


@pytest.mark.alone
def test_64_members_cost_a_small_part_of_an_epoch(seed, report):
    stages = (SeedStage.TRAINING, SeedStage.PROBATIONARY, SeedStage.DORMANT)
    slots = {slot: seed(stage, contribution=1.0) for slot, stage in zip(SLOTS, stages, strict=True)}
    layout = ActionLayout(SLOTS, tuple("abcdefg"), ("linear", "sigmoid", "gated"))
    watched = encoder()

    def milliseconds(epoch):
        reports = [replace(report(epoch, member), slots=slots) for member in range(64)]
        started = time.perf_counter()
        watched.encode(reports)
        encoded = time.perf_counter()
        action_masks(reports, layout)
        return 1e3 * (encoded - started), 1e3 * (time.perf_counter() - encoded)

    encoding, masking = map(min, zip(*(milliseconds(epoch) for epoch in range(30)), strict=True))
    assert encoding <= 2 and masking <= 1


def test_the_least_score_is_within_bounds(report):
    seen = dict(zip(encoder().names, encoder().encode([report(0, accuracy=-100.0)])[0].tolist(), strict=True))
    assert seen["val_accuracy"] == -1.0 and all(-1.0 <= value <= 1.0 for value in seen.values())

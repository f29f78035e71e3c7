"""A network that diverges in a loop of one's own is put back, with its seeds and its optimizer, and at last retired."""

import math
from typing import Any

import pytest
import torch

from esper.api.grower import Grower
from esper.errors import CheckpointError, ConfigError
from esper.leyline import GateConfig, GovernorConfig
from tests.api.loops import X, network, same, train

OPEN = GateConfig(min_training_improvement=-100, min_gradient_ratio=0, min_contribution=-100)
EVERY = GovernorConfig(snapshot_every_epochs=1)


def make(governor: GovernorConfig | None = EVERY, **options: Any) -> Grower:
    net = network()
    timetable = {"plant_epochs": [2], "blend_epochs": [5], "fossilize_epochs": [9]}
    given = {"gates": OPEN} | (options or {"policy": "scheduled", **timetable})
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    return Grower(net, {"mid": "body"}, X[:1], optimizer=optimizer, governor=governor, **given)


def parts(grower: Grower) -> tuple[Any, Any, Any]:
    state = grower.state_dict()
    return state["model"], state["optimizer"]["state"], state["growth"]["log"]


@pytest.mark.parametrize(
    ("score", "trained", "reason"),
    [
        (math.nan, None, "the score is not finite"),
        ((50.0, math.inf), None, "the loss is not finite"),
        (50.0, (50.0, math.nan), "the loss is not finite"),
        (50.0, (50.0, 3.1), "training exploded: loss 3.1 is above 3"),
        (9.0, None, "training collapsed: validation 9.0% after 50.0%"),
    ],
    ids=str,
)
def test_what_counts_as_diverged_is_put_back(score: Any, trained: Any, reason: str) -> None:
    grower = make()
    train(grower, 0)
    grower.end_epoch(50.0, trained=(50.0, 1.0))
    assert grower.slots["mid"].state is not None  # planted after the copy
    planted = {id(parameter) for parameter in grower.slots["mid"].parameters()}
    sound = network().state_dict().keys()
    kept = {name: value.clone() for name, value in grower.model.state_dict().items() if name in sound}
    train(grower, 1)
    (event,) = [one for one in grower.end_epoch(score, trained=trained) if one.event_type.name == "GOVERNOR_ROLLBACK"]
    assert event.message == reason and event.data["to_epoch"] == 1 and event.epoch == 2
    assert grower.report.rolled_back and grower.report.rollbacks == 1 and grower.report.val_accuracy == 50.0
    assert all(torch.equal(grower.model.state_dict()[name], value) for name, value in kept.items())
    held = {id(parameter) for group in grower.optimizer.param_groups for parameter in group["params"]}
    assert not planted & held and held == {id(parameter) for parameter in grower.model.parameters()}
    assert not grower.retired and grower.log == []
    train(grower, 2)
    grower.end_epoch(50.0)


def test_weights_that_are_not_finite_are_seen_whatever_the_score() -> None:
    grower = make()
    for epoch in range(2):
        train(grower, epoch)
        grower.end_epoch(50.0)
    train(grower, 2)
    with torch.no_grad():
        grower.model.head.bias[0] = math.nan
    events = grower.end_epoch(50.0, evaluate=lambda net: 41.0)
    assert [event.message for event in events if "ROLLBACK" in event.event_type.name] == [
        "the network's weights are not finite"
    ]
    assert grower.model.head.bias.isfinite().all() and grower.report.val_accuracy == 41.0
    train(grower, 3)
    grower.end_epoch(math.nan, evaluate=lambda net: math.nan)  # whatever is said of it, it is back
    assert grower.report.rollbacks == 2 and math.isnan(grower.report.val_accuracy)


def test_a_loop_that_diverges_before_its_first_copy_begins_again() -> None:
    grower = make(policy="static")
    before = parts(grower)
    train(grower, 0)
    grower.end_epoch(math.nan)
    assert same(parts(grower), before) and math.isnan(grower.report.val_accuracy)
    train(grower, 1)
    grower.end_epoch(30.0)
    assert grower.report.best_val_accuracy == 30.0


def test_rates_stay_as_the_schedule_has_them() -> None:
    grower = make()
    schedule = torch.optim.lr_scheduler.ExponentialLR(grower.optimizer, 0.5)
    for epoch, score in enumerate((50.0, 50.0, math.nan)):
        train(grower, epoch)
        schedule.step()
        grower.end_epoch(score)
    assert grower.optimizer.param_groups[0]["lr"] == pytest.approx(0.05 / 8)


def test_the_last_rollback_retires_it() -> None:
    grower = make(GovernorConfig(snapshot_every_epochs=1, max_rollbacks=2))
    events = []
    for epoch, score in enumerate((50.0, math.nan, 50.0, math.nan)):
        train(grower, epoch)
        events += grower.end_epoch(score)
    assert [event.epoch for event in events if event.event_type.name == "MEMBER_RETIRED"] == [4]
    assert grower.retired and grower.report.retired
    before = grower.growth_state()
    train(grower, 4)
    assert grower.end_epoch(60.0) == []
    assert same(grower.growth_state() | {"steps": 0, "slots": {}}, before | {"steps": 0, "slots": {}})


def test_it_resumes_bit_for_bit_with_its_copy() -> None:
    def run(grower: Grower, epochs: range) -> None:
        for epoch in epochs:
            train(grower, epoch)
            grower.end_epoch(math.nan if epoch == 4 else 50.0 + epoch, trained=(50.0, 1.0))

    whole = make(GovernorConfig())
    run(whole, range(4))
    kept = whole.state_dict()
    run(whole, range(4, 7))
    again = make(GovernorConfig())
    again.load_state_dict(kept)
    run(again, range(4, 7))
    assert whole.report.rollbacks == 1 and same(whole.state_dict(), again.state_dict())
    with pytest.raises(CheckpointError, match="governor: it has one"):
        make(None).load_state_dict(kept)
    for wrong in ({}, {"kept": {}}, kept["growth"]["governor"] | {"rollbacks": "x"}):
        with pytest.raises(CheckpointError):
            again.load_state_dict(kept | {"growth": kept["growth"] | {"governor": wrong}})


def test_without_a_governor_what_is_not_finite_is_refused_with_what_mends_it() -> None:
    grower = make(None)
    train(grower, 0)
    with pytest.raises(ConfigError, match=r"val_score=nan: expected .*; governor=GovernorConfig\(\) puts"):
        grower.end_epoch(math.nan)

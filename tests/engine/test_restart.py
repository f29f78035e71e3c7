"""Members that begin anew while others go on."""

import copy
import json
from dataclasses import replace

import pytest
import torch

from esper.engine.growth import Growth
from esper.engine.reports import plain_report
from esper.errors import EngineError
from esper.leyline import WAIT, Action, EpochReport, SeedStage
from tests.engine.growing import model, reported, stepped
from tests.engine.test_growth import SCRIPT, advance, plant
from tests.engine.test_growth import growth as plain_growth

SEED = 7


def growth(members: int = 3, **settings) -> Growth:
    grown = plain_growth(members=members, twins=0, **settings)
    grown.fresh_host = lambda seed: model(seed).host
    return grown


def of_member(grown: Growth, member: int) -> dict[str, torch.Tensor]:
    """A member's rows of everything that is kept, and of the governor's snapshot."""
    reported(grown)
    tensors, plain = grown.state()
    held = {"": plain["population"]["members"]}
    if plain["governor"]["snapshot"]:
        held["governor/"] = plain["governor"]["snapshot"]["members"]
    rows = {}
    for name, tensor in tensors.items():
        prefix = "governor/" if name.startswith("governor/") else ""
        stack = name.removeprefix(prefix).split("/")[1] if "/" in name else ""
        if member in held[prefix].get(stack, []):
            rows[name] = tensor[held[prefix][stack].index(member)]
    return rows


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], tolerance: float = 0.0) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(
            tensor, theirs[name], rtol=tolerance, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}"
        )


def flat(report: EpochReport) -> dict[str, object]:
    """A report's figures without its member's number, to compare with a tolerance."""
    plain = plain_report(report)
    slots = {f"{slot}.{name}": value for slot, seed in plain.pop("slots").items() for name, value in seed.items()}
    action = {f"action.{name}": value for name, value in plain.pop("action").items()}
    return {name: value for name, value in (plain | slots | action).items() if name != "member"}


def assert_close(ours: EpochReport, theirs: EpochReport) -> None:
    """The same but for rounding: sums over stacks are not taken alike among other neighbours."""
    expected = flat(theirs)
    for name, value in flat(ours).items():
        assert value == (pytest.approx(expected[name], rel=1e-9) if isinstance(value, float) else expected[name]), name


def actions(grown: Growth, member: int, action: Action) -> list[Action]:
    return [action if e == member else WAIT for e in range(len(grown.population))]


def break_(grown: Growth, member: int) -> None:
    with torch.no_grad():
        grown.population.stacks["host"].parameters["head.bias"][member] = float("nan")


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", ["fused", "sequential"])
def test_an_episode_is_what_a_run_of_its_seed_gives_its_first_member(kind):
    settings = {"kind": kind, "clip_norm": 0.5}
    alone = growth(members=1, **settings)
    alone.population.restart({0: model(SEED).host})
    alone.episodes[0] = replace(alone.episodes[0], seed=SEED)
    among = growth(members=3, **settings)
    for first in SCRIPT[:4]:  # seeds in several stages, in the member that begins anew and beside it
        stepped(among, [first, first, plant("late")])
    among.restart([1], [SEED])
    for grown in (alone, among):
        grown.stream.reseed(SEED)
    assert_close(reported(among)[1], reported(alone)[0])
    for action in SCRIPT:
        (expected,), _ = stepped(alone, [action])
        reports, events = stepped(among, [WAIT, action, WAIT])
        assert_close(reports[1], expected)
        assert {event.epoch for event in events if event.member == 1} <= {expected.epoch}
    assert_same(of_member(among, 1), of_member(alone, 0), tolerance=1e-9)
    own = [entry | {"member": 0} for entry in among.growth_log if entry["member"] == 1]
    assert own == alone.growth_log
    assert [report.epoch for report in reports] == [12, 8, 12]


def test_a_planted_seeds_weights_follow_from_the_episodes_seed():
    planted = []
    for seeds in ([SEED, SEED + 1], [SEED + 1, SEED]):
        grown = growth(members=2)
        grown.restart([0, 1], seeds)
        grown._act(0, plant(blueprint="attention"))
        grown._act(1, plant(blueprint="attention"))
        planted.append(
            [torch.cat([p.detach().flatten() for p in m.get_seed_parameters()]) for m in grown.population.models]
        )
    (one, other), (swapped, back) = planted
    assert torch.equal(one, back) and torch.equal(other, swapped) and not torch.equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fused", "sequential"])
def test_the_others_do_not_notice(kind):
    ends = []
    for is_restarted in (False, True):
        grown = growth(kind=kind, snapshot_every_epochs=2)
        for index, action in enumerate(SCRIPT[:6]):
            stepped(grown, [action, plant("mid"), action])
            if is_restarted and index in (2, 3):
                grown.restart([1], [SEED + index])
        ends.append(grown)
    left, right = ends
    for member in (0, 2):
        assert_same(of_member(left, member), of_member(right, member), tolerance=1e-9)
        assert_close(left.reports()[member], right.reports()[member])


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_weights_are_copied_in_and_nothing_is_left_of_the_member_before(name):
    grown = growth()
    optimizer = grown.population.optimizer
    optimizer.config = replace(optimizer.config, name=name)
    grown.population.optimizer.track("host", grown.population.stacks["host"], {0, 1, 2})
    for action in SCRIPT[:4]:
        stepped(grown, [action, action, WAIT])
    held = grown.population.stacks["host"].tensors() | grown.population.optimizer.rows["host"].moments
    places = {n: t.data_ptr() for n, t in held.items() if isinstance(t, torch.Tensor)}
    grown.restart([1], [SEED])
    assert all(held[n].data_ptr() == place for n, place in places.items())
    body, fresh = grown.population.models[1], model(SEED)
    assert all(torch.equal(a, b) for a, b in zip(body.parameters(), fresh.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(body.buffers(), fresh.buffers(), strict=True))
    assert all(slot.stage is SeedStage.DORMANT and slot.seed is None for slot in body.slots.values())
    rows = of_member(grown, 1)
    optimized = {n: t for n, t in rows.items() if n.startswith("optimizer/") and not n.endswith("learning_rate")}
    assert len(optimized) > 5 and not any(t.any() for t in optimized.values())
    assert all(stack == "host" for stack in {n.split("/")[1] for n in optimized})
    assert {entry["member"] for entry in grown.growth_log} == {0}


def test_a_rollback_never_goes_back_to_an_earlier_episode():
    grown = growth(members=2, snapshot_every_epochs=9)
    stepped(grown, [plant(), plant()])
    grown.restart([0], [SEED])
    untrained = reported(grown)[0]
    stepped(grown, [plant("mid"), WAIT])
    break_(grown, 0)
    reports, _ = stepped(grown, [WAIT, WAIT])
    assert reports[0].rolled_back and reports[0].epoch == 2 and not reports[1].rolled_back
    assert reports[0].val_loss == untrained.val_loss and reports[0].slots == untrained.slots
    fresh = model(SEED)
    assert all(map(torch.equal, grown.population.models[0].parameters(), fresh.parameters()))
    assert [entry["member"] for entry in grown.growth_log] == [1]


def test_copies_are_taken_by_each_members_own_count():
    grown = growth(members=2, snapshot_every_epochs=3)
    taken = {0: [], 1: []}
    for epoch in range(1, 9):
        if epoch == 3:
            grown.restart([1], [SEED])
        stepped(grown, [WAIT, WAIT])
        for member in taken:
            taken[member].append(grown.governor.monitors[member].snapshot_epoch)
    assert taken == {0: [0, 0, 0, 3, 3, 3, 6, 6], 1: [0, 0, 0, 0, 0, 3, 3, 3]}


def test_a_member_goes_back_to_its_own_copy_though_another_was_copied_since():
    grown = growth(members=2, snapshot_every_epochs=9)
    untrained = reported(grown)[0]
    stepped(grown, [plant(), plant("mid")])
    stepped(grown, [WAIT, WAIT])
    grown.restart([1], [SEED])
    stepped(grown, [WAIT, WAIT])  # copies member 1 alone
    break_(grown, 0)
    reports, _ = stepped(grown, [WAIT, WAIT])
    assert reports[0].rolled_back and reports[0].val_loss == untrained.val_loss
    assert reports[0].slots == untrained.slots
    body, fresh = grown.population.models[0], model(0)
    assert all(torch.equal(a, b) for a, b in zip(body.parameters(), fresh.parameters(), strict=True))


def test_a_retired_member_that_begins_anew_trains_again():
    grown = growth(members=2, max_rollbacks=1)
    stepped(grown, [plant(), WAIT])
    break_(grown, 0)
    assert stepped(grown, [WAIT, WAIT])[0][0].retired
    tensors, plain = grown.state()
    resumed = growth(members=2, max_rollbacks=1)
    resumed.load_state(tensors, plain)
    for again in (grown, resumed):
        again.restart([0], [SEED])
        begun = reported(again)[0]
        assert not begun.retired and begun.rollbacks == 0
        before = of_member(again, 0)["weights/host/head.weight"].clone()
        reports, _ = stepped(again, [plant(), WAIT])
        assert reports[0].slots["early"].stage is SeedStage.TRAINING and not reports[0].is_refused
        assert not torch.equal(of_member(again, 0)["weights/host/head.weight"], before)
    assert_same(of_member(grown, 0), of_member(resumed, 0))


def test_a_state_is_taken_over_whole_where_another_member_was_retired():
    grown, other = growth(members=2, max_rollbacks=1), growth(members=2, max_rollbacks=1)
    break_(other, 1)
    stepped(other, [WAIT, WAIT])
    assert other.population.halted == {1}
    stepped(grown, [WAIT, WAIT])
    other.load_state(*copy.deepcopy(grown.state()))
    for again in (grown, other):
        stepped(again, [WAIT, plant()])
    assert_same(of_member(grown, 1), of_member(other, 1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fused", "sequential"])
def test_members_out_of_step_resume_bit_for_bit(kind):
    def begin() -> Growth:
        return growth(kind=kind, clip_norm=0.5, snapshot_every_epochs=2)

    whole = begin()
    for index, action in enumerate(SCRIPT):
        if index == 2:
            whole.restart([2], [SEED])
        if index == 5:
            tensors, plain = whole.state()
            kept = {n: t.clone() for n, t in tensors.items()}, json.loads(json.dumps(plain, allow_nan=False))
            resumed = begin()
            resumed.load_state(*kept)
            for grown in (whole, resumed):
                break_(grown, 2)
        for grown in [whole] if index < 5 else [whole, resumed]:
            stepped(grown, [action, advance(), action])
    assert [report.epoch for report in reported(resumed)] == [8, 8, 6]
    assert reported(resumed)[2].rollbacks == 1
    for member in range(3):
        assert_same(of_member(whole, member), of_member(resumed, member))
        assert repr(reported(whole)[member]) == repr(reported(resumed)[member])


def test_without_a_way_to_make_hosts_nothing_begins_anew():
    with pytest.raises(EngineError, match="fresh_host"):
        plain_growth().restart([0], [SEED])

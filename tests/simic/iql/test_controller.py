import json
import math
import random
from dataclasses import replace

import pytest
import torch

from esper.errors import LearnerError
from esper.leyline import WAIT, EpochReport, Operation, SeedStage, SeedStateReport, SimicAction
from esper.simic.iql.config import IQLPolicyConfig
from esper.simic.iql.controller import IQLController
from esper.simic.iql.model import IQL
from esper.tamiyo import legal_actions

CATALOGUE = [("norm", 10), ("attention", 50), ("depthwise", 80), ("conv_light", 300)]
SLOTS = ("early", "mid", "late")


def seed(slot, stage=SeedStage.DORMANT, **values):
    return SeedStateReport(slot, stage, **{"can_advance": True, **values})


def report(epoch=1, member=0, seeds=(), **values):
    slots = {slot: seed(slot) for slot in SLOTS} | {one.slot_id: one for one in seeds}
    return EpochReport(member, epoch, 25, 1.0, 50.0, 1.0, 50.0 + epoch, 50.0 + epoch, 1000, 99, slots, **values)


class Fixed:
    """A model that knows its values, by names of (stage, action), and what its policy thinks (all alike by default)."""

    state_dim, action_dim = 27, 7

    def __init__(self, has_policy=True, policy=(), **values):
        self.has_policy, self.policy, self.values = has_policy, dict(policy), values

    def q_values(self, states):
        return self._table(states, self.values, -1.0)

    def log_policy(self, states, masks):
        return self._table(states, self.policy, 0.0).masked_fill(~masks, -torch.inf)

    def _table(self, states, values, default):
        stages = [SeedStage(int(state[22])).name for state in states]
        return torch.tensor([[values.get(f"{stage}_{a.name}", default) for a in SimicAction] for stage in stages])


def controller(model, catalogue=CATALOGUE, **settings):
    return IQLController(model, catalogue, IQLPolicyConfig(**settings))


def test_the_slot_that_is_furthest_above_waiting_acts():
    model = Fixed(
        DORMANT_WAIT=1.0, DORMANT_GERMINATE_NORM=1.2, TRAINING_WAIT=5.0, TRAINING_ADVANCE=5.5, PROBATIONARY_WAIT=9.0,
        PROBATIONARY_ADVANCE=9.4,
    )  # fmt: skip
    everything = [seed("mid", SeedStage.TRAINING), seed("late", SeedStage.PROBATIONARY)]
    advance, again, plant, wait = controller(model, blend="linear").act(
        [
            report(seeds=everything),
            report(member=1, seeds=[replace(everything[0], can_advance=False), everything[1]]),
            report(member=2, seeds=[seed("late", SeedStage.FOSSILIZED)]),
            report(member=3, seeds=[seed(slot, SeedStage.FOSSILIZED) for slot in SLOTS]),
        ]
    )
    assert (advance.operation, advance.slot) == (Operation.ADVANCE, "mid")
    assert (again.operation, again.slot) == (Operation.ADVANCE, "late")
    assert (plant.operation, plant.slot, plant.blueprint, plant.blend) == (
        Operation.GERMINATE, "early", "norm", "linear",
    )  # fmt: skip
    assert wait == WAIT
    assert "above waiting" in plant.reason


def test_it_waits_where_nothing_is_above_waiting():
    assert controller(Fixed(DORMANT_WAIT=1.0, DORMANT_GERMINATE_CONV=1.0)).act([report()]) == [WAIT]


def test_it_goes_by_the_policy_where_it_is_told_to_and_there_is_one():
    values = {"DORMANT_WAIT": 2.0, "DORMANT_GERMINATE_NORM": 1.0}
    policy = {"DORMANT_WAIT": -2.0, "DORMANT_GERMINATE_CONV": -1.0, "DORMANT_GERMINATE_NORM": -0.5}
    policy |= {"DORMANT_GERMINATE_ATTENTION": -3.0, "DORMANT_GERMINATE_DEPTHWISE": -3.0}
    assert controller(Fixed(policy=policy, **values)).act([report()]) == [WAIT]
    (planted,) = controller(Fixed(policy=policy, **values), act_by="policy").act([report()])
    assert (planted.operation, planted.blueprint) == (Operation.GERMINATE, "norm")
    assert controller(Fixed(has_policy=False, policy=policy, **values), act_by="policy").act([report()]) == [WAIT]


@pytest.mark.parametrize(
    ("support", "has_policy", "planted"),
    [(0.5, True, "conv_light"), (0.2, True, "norm"), (0.0, True, "attention"), (0.5, False, "attention")],
)
def test_a_value_is_trusted_where_the_records_show_the_deed(support, has_policy, planted):
    """Likelihoods beside that of conv, the likeliest: norm 0.3, attention next to none."""
    values = {"DORMANT_WAIT": 0.0, "DORMANT_GERMINATE_CONV": 1.0, "DORMANT_GERMINATE_NORM": 2.0}
    policy = {"DORMANT_WAIT": -0.01, "DORMANT_GERMINATE_CONV": -5.0, "DORMANT_GERMINATE_NORM": -5.0 + math.log(0.3)}
    policy |= {"DORMANT_GERMINATE_ATTENTION": -40.0, "DORMANT_GERMINATE_DEPTHWISE": -40.0}
    model = Fixed(has_policy, policy, DORMANT_GERMINATE_ATTENTION=9.0, **values)
    assert controller(model, support=support).act([report()])[0].blueprint == planted


def test_a_family_is_planted_as_the_first_of_its_blueprints_that_the_host_has():
    model = Fixed(DORMANT_WAIT=0.0, DORMANT_GERMINATE_CONV=1.0, DORMANT_GERMINATE_NORM=0.5)
    (light,) = controller(model, conv_blueprints=["conv_heavy", "conv_light"]).act([report()])
    assert light.blueprint == "conv_light"
    (norm,) = controller(model, [("norm", 10)]).act([report()])
    assert norm.blueprint == "norm"
    assert controller(model, [("mlp_small", 10)]).act([report()])[0].blueprint == "mlp_small"
    assert controller(model, []).act([report()]) == [WAIT]


def test_twins_and_retired_members_wait():
    model = Fixed(DORMANT_WAIT=0.0, DORMANT_GERMINATE_CONV=1.0)
    assert controller(model).act([report(is_twin=True), report(member=1, retired=True)]) == [WAIT, WAIT]
    assert controller(model).act([]) == []


@pytest.mark.parametrize("dims", [27, 37])
@pytest.mark.parametrize("act_by", ["policy", "value"])
def test_it_only_asks_for_what_is_legal_whatever_it_sees(dims, act_by):
    found = controller(IQL(dims, 7, hidden=(16,), seed=1), act_by=act_by)
    blueprints = [name for name, _ in CATALOGUE]
    draw, acted = random.Random(0), 0
    for epoch in range(30):
        reports = [
            report(
                epoch % 20,
                member,
                [
                    seed(
                        slot,
                        draw.choice(list(SeedStage)),
                        can_advance=draw.random() < 0.5,
                        contribution=draw.choice([None, -3.0, 4.0]),
                        gradient_norm=draw.random(),
                    )
                    for slot in SLOTS
                ],
            )
            for member in range(4)
        ]
        for action, seen in zip(found.act(reports), reports, strict=True):
            assert replace(action, reason="") in legal_actions(seen, blueprints, ["sigmoid"])
            acted += action != WAIT
    assert acted > 10


def test_it_goes_on_exactly_from_its_state():
    model = IQL(37, 7, hidden=(16,), seed=3)
    through, stopped = controller(model), controller(model)
    reports = [[report(epoch, member, val) for member in range(2)] for epoch, val in enumerate([()] * 8)]
    for epoch in range(4):
        assert through.act(reports[epoch]) == stopped.act(reports[epoch])
    resumed = controller(model)
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict(), allow_nan=False)))
    for epoch in range(4, 8):
        assert through.act(reports[epoch]) == resumed.act(reports[epoch])
    assert through.state_dict() == resumed.state_dict()


@pytest.mark.parametrize(("state_dim", "action_dim"), [(54, 7), (27, 4)])
def test_a_model_of_another_layout_is_refused(state_dim, action_dim):
    with pytest.raises(LearnerError, match=f"takes {state_dim} features and chooses among {action_dim} actions; exp"):
        controller(IQL(state_dim, action_dim, hidden=(4,)))

import pytest

from esper.leyline import WAIT, Action, Operation, SeedStage
from esper.tamiyo import legal_actions

BLUEPRINTS, BLENDS = ["norm", "conv_light"], ["linear", "gated"]
CULL_ONLY, BOTH, NOTHING = {Operation.CULL}, {Operation.ADVANCE, Operation.CULL}, set()


@pytest.mark.parametrize(
    ("stage", "operations"),
    [
        (SeedStage.UNKNOWN, NOTHING),
        (SeedStage.DORMANT, {Operation.GERMINATE}),
        (SeedStage.GERMINATED, CULL_ONLY),
        (SeedStage.TRAINING, BOTH),
        (SeedStage.BLENDING, CULL_ONLY),
        (SeedStage.PROBATIONARY, BOTH),
        (SeedStage.FOSSILIZED, NOTHING),
        (SeedStage.CULLED, NOTHING),
        (SeedStage.EMBARGOED, NOTHING),
        (SeedStage.RESETTING, NOTHING),
    ],
)
def test_each_stage_allows_exactly_its_operations(seed, report, stage, operations):
    fossil = seed(SeedStage.FOSSILIZED)
    legal = legal_actions(report(early=seed(stage), mid=fossil, late=fossil), BLUEPRINTS, BLENDS)
    assert legal[0] == WAIT and WAIT not in legal[1:]
    assert {action.operation for action in legal[1:]} == operations
    assert all(action.slot == "early" for action in legal[1:])


def test_every_stage_is_covered_above():
    assert len(SeedStage) == 10


def test_planting_offers_each_blueprint_with_each_blend_once(seed, report):
    legal = legal_actions(report(mid=seed(SeedStage.TRAINING)), BLUEPRINTS, BLENDS)
    planting = [action for action in legal if action.operation is Operation.GERMINATE]
    assert sorted((a.slot, a.blueprint, a.blend) for a in planting) == sorted(
        (slot, name, blend) for slot in ("early", "late") for name in BLUEPRINTS for blend in BLENDS
    )
    assert Action(Operation.ADVANCE, "mid") in legal and Action(Operation.CULL, "mid") in legal
    assert len(legal) == len(set(legal)) == 1 + 8 + 2


@pytest.mark.parametrize("values", [{"is_twin": True}, {"retired": True}])
def test_twins_and_retired_members_can_only_wait(seed, report, values):
    assert legal_actions(report(early=seed(SeedStage.TRAINING), **values), BLUEPRINTS, BLENDS) == [WAIT]

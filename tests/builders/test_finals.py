"""Final networks are what members have grown into, as a user would train it from scratch."""

import pytest
import torch

from esper.builders.finals import build_finals
from esper.builders.population import Grown, build_growth
from esper.config import compose
from esper.engine.epoch import EpochRunner
from esper.leyline import WAIT, Action, Operation, SeedStage
from esper.leyline.controls import BACKWARD

EPOCHS = 7
TINY = ["engine.members=3", "engine.threads=1", "engine=fused", "host.channels=[2,3]", "slots=early_late", "seed=4"]
TINY += ["task.image_size=8", "task.distortion=none", "gates=permissive", "slots.blending_epochs=1", f"epochs={EPOCHS}"]
# Member 0 ends with a fossil and a seed that is still blending, 1 has lost its seed, 2 never had one.
PLANS: list[dict[int, Action]] = [
    {
        0: Action(Operation.GERMINATE, "early", "conv_light", "gated"),
        1: Action(Operation.ADVANCE, "early"),
        3: Action(Operation.ADVANCE, "early"),
        4: Action(Operation.GERMINATE, "late", "norm", "linear"),
        6: Action(Operation.ADVANCE, "late"),
    },
    {0: Action(Operation.GERMINATE, "late", "norm", "linear"), 1: Action(Operation.CULL, "late")},
    {},
]


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def grown(*overrides: str) -> Grown:
    parts = build_growth(compose([*TINY, *overrides]))
    epochs = EpochRunner([parts.growth])
    for epoch in range(EPOCHS):
        epochs.step([[plan.get(epoch, WAIT) for plan in PLANS] + [WAIT] * len(parts.twin_of)])
    return parts


@pytest.fixture(scope="module")
def parts() -> Grown:
    return grown("controls=[]")


def trained(parts: Grown, *controls: str):
    config = compose([*TINY, f"controls=[{','.join(controls)}]"])
    (networks,) = build_finals([(config, parts.local_growth)], parts.engine)
    assert networks is not None
    epochs = EpochRunner([networks.growth])
    while not epochs.done:
        epochs.step([[WAIT] * len(networks.rows)])
    return networks


def test_a_network_is_whole_from_the_first_step_on_and_begins_with_its_members_first_weights(parts):
    config = compose([*TINY, "controls=[final]"])
    (networks,) = build_finals([(config, parts.local_growth)], parts.engine)
    assert networks.rows == [("final", 0), ("final", 1)], "member 2 never grew: it is its own final network"
    first, second = networks.growth.population.models
    slots = {name: (slot.state.blueprint_id, slot.stage, slot.alpha, slot.gate) for name, slot in first.slots.items()}
    assert slots == {
        "early": ("conv_light", SeedStage.FOSSILIZED, 1.0, None),
        "late": ("norm", SeedStage.FOSSILIZED, 1.0, None),
    }
    assert all(slot.seed is None for slot in second.slots.values())
    untrained = build_growth(compose([*TINY, "controls=[]"])).growth.population.models
    for model, member in zip((first, second), untrained, strict=False):
        host = {name: tensor for name, tensor in model.host.named_parameters() if "slots" not in name}
        assert all(tensor.equal(dict(member.host.named_parameters())[name]) for name, tensor in host.items())


def test_it_trains_for_the_flops_of_its_member_to_a_minibatch(parts):
    networks = trained(parts, "final")
    growth = networks.growth
    assert len({steps % growth.steps_an_epoch for steps in growth.steps}) == 2, "one ends within an epoch"
    for report, (_, member) in zip(growth.reports(), networks.rows, strict=True):
        minibatch = BACKWARD * growth.batch_size * report.flops_per_sample
        assert report.training_flops == pytest.approx(parts.growth.reports()[member].training_flops, abs=minibatch)
    assert growth.rate_factors()[0] < 0.5, "the learning rate has fallen by its end"


@pytest.mark.slow
def test_for_as_many_epochs_a_host_that_lost_its_seeds_is_the_twin():
    parts = grown()  # with twins
    networks = trained(parts, "final_epochs")
    assert networks.rows == [("final_epochs", 0), ("final_epochs", 1)] and networks.growth.epochs == EPOCHS
    assert networks.growth.reports()[1].val_loss == pytest.approx(parts.growth.reports()[4].val_loss, rel=1e-5)
    assert networks.growth.reports()[0].val_loss != pytest.approx(parts.growth.reports()[3].val_loss, rel=1e-3)


def test_where_nobody_grew_there_is_nothing_to_train(parts):
    static = build_growth(compose([*TINY, "controls=[]", "epochs=1"]))
    EpochRunner([static.growth]).step([[WAIT] * 3])
    config = compose([*TINY, "controls=[final,final_epochs]", "epochs=1"])
    assert build_finals([(config, static.local_growth)], static.engine) == [None]


@pytest.mark.slow
def test_runs_that_share_a_population_have_what_each_has_alone(parts):
    other, config = grown("controls=[]", "epochs=7", "seed=5"), compose([*TINY, "controls=[final]"])
    static = build_growth(compose([*TINY, "controls=[]", "epochs=1"]))
    EpochRunner([static.growth]).step([[WAIT] * 3])
    pairs = [
        (compose([*TINY, "controls=[final,final_epochs]", "seed=5"]), other.local_growth),
        (compose([*TINY, "controls=[final]", "epochs=1"]), static.local_growth),
        (config, parts.local_growth),
    ]
    first, nothing, last = build_finals(pairs, parts.engine)
    assert nothing is None and len(first.rows) == 4
    epochs = EpochRunner([first.growth, last.growth])
    while not epochs.done:
        epochs.step([[WAIT] * 4, [WAIT] * 2])
    alone = trained(parts, "final").growth.reports()
    for report, own in zip(last.growth.reports(), alone, strict=True):
        assert report.val_loss == pytest.approx(own.val_loss, rel=1e-4)
        assert report.training_flops == own.training_flops

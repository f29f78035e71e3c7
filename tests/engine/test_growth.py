"""The epoch loop: actions, counterfactuals, rollbacks, and exact resumption."""

import copy
import json
import math

import pytest
import torch

from esper.engine.backends.fused import FusedEngine
from esper.engine.data_stream import Stream
from esper.engine.epoch import EpochRunner
from esper.engine.governor import Governor, GovernorConfig
from esper.engine.growth import Growth
from esper.engine.optimizer import OptimizerConfig
from esper.engine.population import Population
from esper.errors import CheckpointError
from esper.kasmina.slot import GateConfig, QualityGates
from esper.leyline import WAIT, Action, Operation, SeedStage, TelemetryEventType
from esper.tasks.task import Task
from tests.engine.growing import data, model, reported, stepped

BLUEPRINTS = ("conv_light", "norm", "attention")
EASY = GateConfig(min_training_improvement=-100.0, min_gradient_ratio=0.0, min_contribution=-100.0)


def task() -> Task:
    x, y, _ = data(count=90)
    return Task("toy", 5, (2, 9, 9), x[:50], y[:50], x[50:70], y[50:70], x[70:], y[70:])


def growth(
    members: int = 2, twins: int = 1, kind: str = "fused", epochs: int = 12, clip_norm: float | None = None, **governor
) -> Growth:
    bodies = [model(e) for e in range(members)] + [model(e) for e in range(twins)]
    return Growth(
        Population(bodies, OptimizerConfig(learning_rate=0.02, clip_norm=clip_norm), kind),
        task(),
        QualityGates(EASY),
        Governor(GovernorConfig(**governor)),
        grown=members,
        epochs=epochs,
        batch_size=16,
        blueprints=BLUEPRINTS,
        seed=3,
    )


def plant(slot: str = "early", blueprint: str = "conv_light", blend: str = "linear") -> Action:
    return Action(Operation.GERMINATE, slot, blueprint, blend, "test")


def advance(slot: str = "early") -> Action:
    return Action(Operation.ADVANCE, slot)


def actions(grown: Growth, first: Action) -> list[Action]:
    return [first] + [WAIT] * (len(grown.population) - 1)


SCRIPT = [plant(), WAIT, advance(), plant("mid", blend="gated"), WAIT, advance("mid"), advance(), WAIT]


def run(grown: Growth, script) -> list:
    return [stepped(grown, actions(grown, action)) for action in script]


def weights(grown: Growth) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in grown.state()[0].items() if not name.startswith("governor/")}


@pytest.mark.parametrize("kind", ["fused", "sequential"])
def test_a_seed_goes_through_its_whole_life(kind):
    grown = growth(kind=kind)
    history = run(grown, SCRIPT)
    stages = [reports[0].slots["early"].stage.name for reports, _ in history]
    assert stages[:3] == ["TRAINING", "TRAINING", "BLENDING"]
    assert stages[-1] == "FOSSILIZED"
    assert history[-1][0][0].parameter_count > history[0][0][2].parameter_count
    entered = [
        e.data["to"]
        for _, events in history
        for e in events
        if e.event_type is TelemetryEventType.STAGE_CHANGED and e.slot_id == "early"
    ]
    assert entered == ["GERMINATED", "TRAINING", "BLENDING", "PROBATIONARY", "FOSSILIZED"]


@pytest.mark.parametrize("kind", ["fused", "sequential"])
def test_a_member_can_end_within_an_epoch(kind):
    """50 examples are 4 minibatches of 16: the first member trains for 6, the others for 4 and 8."""
    bodies = [model(e) for e in range(3)]
    grown = Growth(
        Population(bodies, OptimizerConfig(learning_rate=0.02), kind),
        task(),
        QualityGates(EASY),
        Governor(GovernorConfig()),
        grown=3,
        epochs=2,
        batch_size=16,
        blueprints=BLUEPRINTS,
        seed=3,
        steps=[6, 4, 8],
    )
    stream, plain = Stream(grown.task, 3), model(0).train()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.02, momentum=0.9)
    batches = []
    for epoch in (1, 2):
        drawn = stream.draw(epoch)
        batches += [(drawn.x[picked], drawn.y[picked]) for picked in drawn.order.split(16)]
    for x, y in batches[:6]:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(plain(x), y).backward()
        optimizer.step()
    stepped(grown, [WAIT] * 3)
    assert grown.population.halted == {1}
    tensors, state = grown.state()
    halfway = [tensor.clone() for tensor in bodies[1].state_dict().values() if torch.is_tensor(tensor)]
    reports, _ = stepped(grown, [WAIT] * 3)
    assert grown.done and grown.population.halted == {0, 1, 2}
    for name, tensor in plain.named_parameters():
        torch.testing.assert_close(dict(bodies[0].named_parameters())[name], tensor, rtol=1e-9, atol=1e-12)
    for name, tensor in plain.named_buffers():  # running statistics stand still with the weights
        torch.testing.assert_close(dict(bodies[0].named_buffers())[name], tensor, rtol=1e-9, atol=1e-12)
    still = [tensor for tensor in bodies[1].state_dict().values() if torch.is_tensor(tensor)]
    assert all(one.equal(other) for one, other in zip(halfway, still, strict=True))
    samples = [50 + 32, 50, 100]
    assert [report.training_flops for report in reports] == [
        3.0 * count * report.flops_per_sample for count, report in zip(samples, reports, strict=True)
    ]
    grown.load_state(tensors, state)
    assert grown.population.halted == {1} and grown.training_flops[1] == reports[1].training_flops


def test_twins_never_grow_and_start_like_their_members():
    grown = growth(members=1, twins=1)
    first = reported(grown)
    assert first[0].val_loss == first[1].val_loss and first[1].is_twin
    for _ in range(3):
        reports, _ = stepped(grown, [WAIT, plant()])  # what is asked for a twin is not done
    assert reports[0].val_loss == reports[1].val_loss
    assert reports[1].slots["early"].stage is SeedStage.DORMANT


def test_contribution_is_the_score_with_the_seed_minus_without_it():
    grown = growth()
    run(grown, SCRIPT[:4])
    report = reported(grown)[0]
    seed = report.slots["early"]
    assert seed.stage in (SeedStage.BLENDING, SeedStage.PROBATIONARY)
    body = copy.deepcopy(grown.population.models[0]).eval()
    body.slots["early"].bypass = True
    with torch.no_grad():
        logits = body(grown.task.val_x)
    loss = torch.nn.functional.cross_entropy(logits, grown.task.val_y).item()
    accuracy = 100.0 * (logits.argmax(1) == grown.task.val_y).double().mean().item()
    assert seed.contribution_loss == pytest.approx(loss - report.val_loss, abs=1e-9)
    assert seed.contribution == pytest.approx(report.val_accuracy - accuracy, abs=1e-4)


def test_ablations_cost_what_they_must(monkeypatch):
    """One suffix a slot with live seeds, of the members that carry one; none for dormant slots or training seeds."""
    calls = []
    plain = FusedEngine.logits_without
    monkeypatch.setattr(
        FusedEngine,
        "logits_without",
        lambda self, slot, members, captured: (
            calls.append((slot, list(members))) or plain(self, slot, members, captured)
        ),
    )
    grown = growth(members=3, twins=0)
    stepped(grown, [plant(), plant("mid"), WAIT])
    assert calls == []
    stepped(grown, [advance(), advance("mid"), WAIT])
    assert sorted(calls) == [("early", [0]), ("mid", [1])]
    ran = []
    steps = grown.population.engine.host.steps
    first = steps[0]
    monkeypatch.setattr(
        grown.population.engine.host,
        "steps",
        (
            first.__class__(
                lambda *a: ran.append("prefix") or first.run(*a), first.inputs, first.output, None, first.drops
            ),
            *steps[1:],
        ),
    )
    EpochRunner([grown]).validate([[(0, "early"), (1, "mid")]])
    assert ran == ["prefix"]  # what lies before the slots runs once, for everyone


def test_refused_actions_change_nothing_and_say_why():
    grown = growth()
    for action, expected in [
        (plant("nowhere"), "no slot 'nowhere'"),
        (plant(blueprint="mlp"), "blueprint 'mlp'"),
        (advance(), "cannot advance"),
        (Action(Operation.CULL, "early"), "cannot cull"),
    ]:
        _, events = stepped(grown, actions(grown, action))
        assert [e.event_type for e in events] == [TelemetryEventType.ACTION_REFUSED]
        assert expected in events[0].message
    assert grown.growth_log == []


def test_a_member_that_breaks_is_put_back_alone():
    grown = growth(members=2, twins=0, snapshot_every_epochs=3, max_rollbacks=2)
    for first in (plant(), WAIT, WAIT, WAIT):
        stepped(grown, [first, WAIT])  # the last takes a snapshot of epoch 3
    kept = {n: t.clone() for n, t in grown.governor.snapshot.tensors.items()}
    with torch.no_grad():
        grown.population.stacks["host"].parameters["head.weight"][0] = float("inf")
    reports, events = stepped(grown, [WAIT, WAIT])
    assert [e.event_type for e in events if e.member == 0][-1] is TelemetryEventType.GOVERNOR_ROLLBACK
    assert reports[0].rolled_back and not reports[1].rolled_back and not math.isfinite(reports[0].train_loss)
    now = grown.state()[0]
    assert torch.equal(now["weights/host/head.weight"][0], kept["weights/host/head.weight"][0])
    assert torch.equal(now["optimizer/host/momentum/head.weight"][0], kept["optimizer/host/momentum/head.weight"][0])
    assert not torch.equal(now["weights/host/head.weight"][1], kept["weights/host/head.weight"][1])
    with torch.no_grad():
        grown.population.stacks["host"].parameters["head.weight"][0] = float("inf")
    reports, events = stepped(grown, [WAIT, WAIT])
    assert reports[0].retired and TelemetryEventType.MEMBER_RETIRED in [e.event_type for e in events]
    stuck = grown.state()[0]["weights/host/head.weight"][0].clone()
    stepped(grown, [plant("late"), WAIT])
    assert torch.equal(grown.state()[0]["weights/host/head.weight"][0], stuck)


def test_a_rollback_leaves_alone_what_others_planted_since_the_snapshot():
    grown = growth(members=2, twins=0, snapshot_every_epochs=9)
    stepped(grown, [WAIT, WAIT])
    stepped(grown, [WAIT, plant("mid", "norm")])
    with torch.no_grad():
        grown.population.stacks["host"].parameters["head.bias"][0] = float("nan")
    reports, _ = stepped(grown, [plant("late"), WAIT])
    assert reports[0].rolled_back and reports[0].slots["late"].stage is SeedStage.DORMANT
    assert not reports[1].rolled_back and reports[1].slots["mid"].stage is SeedStage.TRAINING
    stepped(grown, [plant("late"), WAIT])  # and life goes on


def test_a_member_that_was_put_back_is_reported_as_it_is_now():
    grown = growth(members=2, twins=0, snapshot_every_epochs=9)
    run(grown, [plant(), WAIT, advance()])  # the snapshot is of the untrained hosts
    untrained = reported(growth(members=2, twins=0))[0]
    with torch.no_grad():
        grown.population.stacks["host"].parameters["head.bias"][0] = float("nan")
    reports, _ = stepped(grown, [WAIT, WAIT])
    assert reports[0].rolled_back and not reports[0].retired
    assert reports[0].val_loss == untrained.val_loss and not math.isfinite(reports[0].train_loss)
    assert reports[0].slots["early"].contribution is None and grown.growth_log == []
    tensors, plain = grown.state()
    growth(members=2, twins=0).load_state(tensors, json.loads(json.dumps(plain, allow_nan=False)))


def test_a_retired_member_stands_still():
    grown = growth(members=2, twins=0, snapshot_every_epochs=9, max_rollbacks=1)
    stepped(grown, [plant(), plant()])
    with torch.no_grad():
        grown.population.stacks["host"].parameters["head.bias"][0] = float("nan")
    stepped(grown, [WAIT, WAIT])
    before = {n: t.clone() for n, t in weights(grown).items() if n.startswith("weights/host")}
    for _ in range(2):
        reports, _ = stepped(grown, [plant(), WAIT])
    assert reports[0].retired and not reports[0].rolled_back
    after = weights(grown)
    for name, tensor in before.items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(after[name][0], tensor[0]), name
            assert not torch.equal(after[name][1], tensor[1]), name


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 3, 5, 7])
@pytest.mark.parametrize("kind", ["fused", "sequential"])
def test_a_resumed_run_ends_bit_for_bit_where_it_would_have(kind, stop):
    settings = {"kind": kind, "clip_norm": 0.5}  # a norm is a sum over stacks: their order must not change
    whole = growth(**settings)
    run(whole, SCRIPT)
    begun = growth(**settings)
    run(begun, SCRIPT[:stop])
    tensors, plain = begun.state()
    resumed = growth(**settings)
    resumed.load_state({n: t.clone() for n, t in tensors.items()}, copy.deepcopy(plain))
    run(resumed, SCRIPT[stop:])
    ours, theirs = weights(resumed), weights(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert [r.val_loss for r in reported(resumed)] == [r.val_loss for r in reported(whole)]
    assert resumed.growth_log == whole.growth_log


def test_a_rollback_after_resuming_goes_to_the_same_snapshot():
    ends = []
    for is_resumed in (False, True):
        grown = growth(members=2, twins=0, snapshot_every_epochs=4)
        run(grown, SCRIPT[:3])
        if is_resumed:
            tensors, plain = grown.state()
            grown = growth(members=2, twins=0, snapshot_every_epochs=4)
            grown.load_state(tensors, plain)
        with torch.no_grad():
            grown.population.stacks["host"].parameters["head.bias"][0] = float("nan")
        run(grown, SCRIPT[3:5])
        ends.append(weights(grown))
    assert ends[0].keys() == ends[1].keys() and all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0])


def test_a_checkpoint_of_another_architecture_is_refused_by_name():
    begun = growth()
    reported(begun)
    tensors, plain = begun.state()
    tensors["weights/host/head.weight"] = tensors["weights/host/head.weight"][:, :, :2]
    with pytest.raises(CheckpointError, match=r"weights/host/head.weight: found \[3, 5, 2\]"):
        growth().load_state(tensors, plain)


def test_a_seed_that_is_not_finite_never_touches_the_host():
    broken, clean = growth(members=1, twins=0), growth(members=1, twins=0)
    stepped(broken, [plant()])
    stepped(clean, [plant()])
    with torch.no_grad():
        broken.population.stacks["slots.early.conv_light"].parameters["body.2.weight"].fill_(float("nan"))
    _, events = stepped(broken, [WAIT])
    stepped(clean, [WAIT])
    name = "weights/host/head.weight"
    torch.testing.assert_close(broken.state()[0][name], clean.state()[0][name], rtol=0, atol=0)
    assert any(e.event_type is TelemetryEventType.CULLED for e in events)

"""Jobs that train together become what each would have become alone."""

import pytest
import torch

from esper.builders.policy import build_policy
from esper.builders.population import build_growth, build_growths
from esper.config import compose
from esper.engine.epoch import EpochRunner
from esper.errors import EngineError
from esper.leyline import TelemetryEventType
from tests.engine.growing import reported, stepped
from tests.networks import CHOSEN, residual

SMALL = ["engine.members=2", "engine.threads=1", "slots=early_late", "slots.blending_epochs=2"]
IMAGES = ["epochs=9", "task.image_size=8", "host.channels=[2,4]"]
TEXT = ["epochs=7", "task=text", f"task.path={__file__}", "task.train_bytes=1600", "task.val_bytes=400"]
TEXT += ["task.test_bytes=400", "task.block_size=8", "task.epoch_windows=16", "host=transformer", "host.n_embd=4"]
TEXT += ["host.n_layer=2", "policy=heuristic_text", "batch_size=8"]
QUICK = ["policy.first_plant_epoch=1", "policy.min_training_epochs=1", "policy.probation_epochs=1", "gates=permissive"]
JOBS = {
    "a seed": ["seed=3"],
    "rates": ["seed=3", "optimizer.learning_rate=0.01", "optimizer.weight_decay=0.01", "optimizer.decay_share=0"],
    "no twins": ["controls=[]", "engine.members=3", "gates=default"],
    "a rule": ["seed=5", "policy.blend=gated", "engine.governor.snapshot_every_epochs=1"],
    "a split": ["seed=7", "task.split_seed=1"],
}
SETTINGS = {
    "fused": [*IMAGES, "engine=fused"],
    "sequential": [*IMAGES, "engine=sequential"],
    "adamw": [*IMAGES, "optimizer=adamw"],
    "text": [*TEXT, "engine=fused"],
}


def play(configs, growths):
    """Every epoch of all of them; what was reported of each, what happened, and the final scores."""
    controllers = [build_policy(config, grown)[0] for config, grown in zip(configs, growths, strict=True)]
    parts = [grown.growth for grown in growths]
    epochs = EpochRunner(parts)
    told, events = [[reports] for reports in epochs.reports()], [[] for _ in parts]
    while not epochs.done:
        asked = [controller.act(seen[-1]) for controller, seen in zip(controllers, told, strict=True)]
        for number, (reports, happened) in enumerate(epochs.step(asked)):
            told[number].append(reports)
            events[number] += [(e.event_type, e.epoch, e.member, e.slot_id, e.message) for e in happened]
    return told, events, epochs.test()


def figures(reports):
    rows = [[r.train_loss, r.val_loss, r.val_accuracy, r.parameter_count] for r in reports]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_each_job_is_what_it_would_be_alone(setting):
    jobs = JOBS | ({"a split": ["seed=7"]} if setting == "text" else {})
    if setting == "sequential":
        jobs = {name: jobs[name] for name in ("rates", "a split")}  # it is slow, and knows nothing of its neighbours
    overrides = [*SMALL, *SETTINGS[setting], *QUICK, "engine.precision=float64"]
    configs = [compose([*overrides, *own]) for own in jobs.values()]
    together = build_growths(configs)
    told, events, tested = play(configs, together)
    fossils = 0
    for number, config in enumerate(configs):
        alone = build_growth(config)
        (own_told,), (own_events,), (own_tested,) = play([config], [alone])
        assert events[number] == own_events
        for mine, reference in zip(told[number], own_told, strict=True):
            torch.testing.assert_close(figures(mine), figures(reference), rtol=1e-9, atol=1e-9, equal_nan=True)
        torch.testing.assert_close(tested[number].loss, own_tested.loss, rtol=1e-9, atol=0)
        tensors, plain = together[number].growth.state()
        own_tensors, own_plain = alone.growth.state()
        assert plain["growth_log"] == own_plain["growth_log"] and tensors.keys() == own_tensors.keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, own_tensors[name], rtol=1e-9, atol=1e-9)
        fossils += sum(event[0] is TelemetryEventType.FOSSILIZED for event in own_events)
    assert fossils  # whole lives were compared


@pytest.mark.slow
def test_a_job_that_goes_wrong_again_and_again_touches_no_other():
    """It is put back in every epoch, and its seeds leave the stacks before the other's are judged."""
    overrides = [*SMALL, *IMAGES, *QUICK, "engine=fused", "engine.precision=float64", "controls=[]"]
    wild = ["seed=3", "optimizer.learning_rate=1000", "engine.governor.max_rollbacks=99"]
    configs = [compose([*overrides, *own]) for own in (wild, ["seed=4"])]
    told, events, _ = play(configs, build_growths(configs))
    assert all(report.rolled_back for reports in told[0][1:] for report in reports)
    (own_told,), (own_events,), _ = play(configs[1:], [build_growth(configs[1])])
    assert events[1] == own_events and any(event[0] is TelemetryEventType.CULLED for event in own_events)
    for mine, reference in zip(told[1], own_told, strict=True):
        torch.testing.assert_close(figures(mine), figures(reference), rtol=1e-9, atol=1e-9, equal_nan=True)


@pytest.mark.slow
def test_a_step_in_float32_is_the_same_to_1e_5():
    configs = [compose([*SMALL, *IMAGES, "engine=fused", f"seed={seed}"]) for seed in range(3)]
    for config, (_, first, *_) in zip(configs, play(configs, build_growths(configs))[0], strict=True):
        alone = build_growth(config).growth
        reports, _ = stepped(alone, [report.action for report in first])
        torch.testing.assert_close(figures(first), figures(reports), rtol=1e-5, atol=0)


def with_dropout(input_shape, num_classes):
    network = residual(input_shape, num_classes)
    network.insert(3, torch.nn.Dropout(0.3))
    return network


@pytest.mark.slow
def test_layers_that_draw_do_so_by_their_own_job_s_seed():
    overrides = [*CHOSEN, *SMALL[:3], "epochs=2", "engine.memory_format=contiguous"]
    overrides += ["host.factory=tests.engine.test_epoch:with_dropout"]
    configs = [compose([*overrides, f"seed={seed}"]) for seed in (0, 1)]
    for config, told in zip(configs, play(configs, build_growths(configs))[0], strict=True):
        (alone,) = play([config], [build_growth(config)])[0]
        assert [report.train_loss for report in told[-1]] == [report.train_loss for report in alone[-1]]


@pytest.mark.slow
def test_a_state_taken_among_others_goes_on_alone():
    configs = [compose([*SMALL, *IMAGES, *QUICK, "engine=fused", f"seed={seed}"]) for seed in (0, 1)]
    whole = play(configs, build_growths(configs))[0]
    together = build_growths(configs)
    growths = [grown.growth for grown in together]
    controllers = [build_policy(*pair)[0] for pair in zip(configs, together, strict=True)]
    epochs = EpochRunner(growths)
    for _ in range(5):
        epochs.step([c.act(reports) for c, reports in zip(controllers, epochs.reports(), strict=True)])
    for number, config in enumerate(configs):
        alone = build_growth(config)
        alone.growth.load_state(*growths[number].state())
        controller = build_policy(config, alone)[0]
        controller.load_state_dict(controllers[number].state_dict())
        while not alone.growth.done:
            reports, _ = stepped(alone.growth, controller.act(reported(alone.growth)))
        torch.testing.assert_close(figures(reports), figures(whole[number][-1]), rtol=1e-5, atol=0)


@pytest.mark.slow
def test_a_share_cannot_train_without_the_others():
    growths = [grown.growth for grown in build_growths([compose([*SMALL, *IMAGES, f"seed={s}"]) for s in (0, 1)])]
    with pytest.raises(EngineError, match="without the others"):
        EpochRunner(growths[:1])

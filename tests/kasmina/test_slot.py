import json

import pytest
import torch
from torch import nn

from esper.errors import BlueprintError, ConfigError, LifecycleError
from esper.kasmina import BlueprintRegistry, CNNHost
from esper.kasmina.slot import SeedSlot, SeedState
from esper.leyline import SeedStage


def test_germinate_plants_a_seed_of_the_slots_own_width():
    slot = SeedSlot(slot_id="mid", channels=64, device="cpu")
    slot.germinate("norm", "seed1", host_module=CNNHost())
    assert (slot.stage, slot.state.seed_id, slot.state.slot_id) == (SeedStage.GERMINATED, "seed1", "mid")
    assert slot.state.metrics.parameter_count == sum(p.numel() for p in slot.seed.parameters()) == 128
    assert slot.gate is None
    assert slot.blend_algorithm_id == "sigmoid"


def test_only_a_gated_seed_has_a_gate_and_has_it_from_the_start(make_slot):
    assert make_slot(blend="gated", stage=SeedStage.GERMINATED).gate is not None
    assert make_slot(blend="linear", stage=SeedStage.GERMINATED).gate is None


def test_weights_come_from_the_generator_and_from_nowhere_else():
    before = torch.get_rng_state()
    weights = []
    for seed in (1, 1, 2):
        slot = SeedSlot("mid", channels=8)
        slot.germinate("conv_heavy", "s", generator=torch.Generator().manual_seed(seed))
        weights.append(slot.seed.body[2].weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("conv_lite", "s"), BlueprintError, "did you mean 'conv_light'"),
        (("norm", ""), LifecycleError, "seed_id_missing"),
        (("norm", "s", None, "cubic"), ConfigError, "'cubic' is unknown"),
    ],
)
def test_a_refused_seed_leaves_the_slot_as_it_was(arguments, error, message):
    slot = SeedSlot("mid", channels=8)
    with pytest.raises(error, match=message):
        slot.germinate(*arguments)
    assert slot.state is None
    assert slot.seed is None


def test_an_occupied_slot_takes_no_other_seed(make_slot):
    slot = make_slot()
    state, seed = slot.state, slot.seed
    with pytest.raises(LifecycleError, match=r"slot 'mid' holds seed 's' \(TRAINING\)"):
        slot.germinate("norm", "other")
    assert slot.state is state
    assert slot.seed is seed


@pytest.mark.parametrize(
    ("module", "message"),
    [(nn.Conv2d(8, 4, 1), "a seed keeps the shape"), (nn.Conv2d(4, 4, 1), "does not take features")],
)
def test_a_blueprint_that_does_not_fit_is_not_planted(monkeypatch, module, message):
    monkeypatch.setattr(BlueprintRegistry, "_specs", {"cnn": {}})
    BlueprintRegistry.register("odd", "cnn", param_estimate=1)(lambda dim, max_ratio: module)
    slot = SeedSlot("mid", channels=8)
    with pytest.raises(BlueprintError, match=message):
        slot.germinate("odd", "s")
    assert slot.state is None


def test_the_probe_leaves_running_statistics_alone(make_slot):
    slot = make_slot(stage=SeedStage.GERMINATED)
    norm = slot.seed.body[0]
    assert norm.training
    assert torch.equal(norm.running_mean, torch.zeros(8))
    assert norm.num_batches_tracked == 0


def test_a_seed_is_made_for_the_slots_precision():
    slot = SeedSlot("mid", channels=8).double()
    slot.germinate("conv_light", "s", blend_algorithm_id="gated")
    assert {parameter.dtype for parameter in slot.parameters()} == {torch.float64}


def test_training_without_isolation_lets_the_seeds_gradient_through(make_slot, features):
    slot, host_features = make_slot(perturb=True), features()
    slot.isolate_gradients = False
    output = slot(host_features)
    assert torch.equal(output, host_features)
    output.sum().backward()
    assert not torch.equal(host_features.grad, torch.ones_like(host_features))


def test_a_germinated_seed_does_not_compute_yet(make_slot, features):
    slot, host_features = make_slot(stage=SeedStage.GERMINATED, perturb=True), features()
    assert slot(host_features) is host_features


def test_bypass_takes_the_seed_out_for_a_while(make_slot, features):
    slot, host_features = make_slot(stage=SeedStage.FOSSILIZED, perturb=True), features()
    whole = slot(host_features)
    slot.bypass = True
    assert slot(host_features) is host_features
    slot.bypass = False
    slot.eval()
    assert not torch.equal(slot(host_features), host_features)
    assert not torch.equal(whole, host_features)


@pytest.mark.parametrize("blend", ["linear", "sigmoid", "gated"])
def test_the_output_follows_the_alpha_of_the_state(make_slot, features, blend):
    slot, host_features = make_slot(blend=blend, stage=SeedStage.BLENDING, perturb=True), features()
    slot.eval()
    seed_features = slot.seed(host_features)
    for alpha in (0.0, 0.3, 1.0):
        slot.state.alpha = alpha
        torch.testing.assert_close(slot(host_features), host_features + alpha * (seed_features - host_features))


def test_a_gate_that_has_learned_blends_each_sample_by_itself(make_slot, features):
    slot, host_features = make_slot(blend="gated", stage=SeedStage.BLENDING, perturb=True), features()
    slot.eval()
    nn.init.constant_(slot.gate.linear.weight, 2.0)
    alpha = slot.gate(host_features, slot.alpha)
    assert alpha.std() > 0.01
    torch.testing.assert_close(slot(host_features), host_features + alpha * (slot.seed(host_features) - host_features))


def test_a_blend_that_is_over_has_neither_ramp_nor_gate(make_slot, features):
    slot, host_features = make_slot(blend="gated", stage=SeedStage.BLENDING, perturb=True), features()
    slot.eval()
    nn.init.constant_(slot.gate.linear.weight, 2.0)
    slot.state.transition(SeedStage.PROBATIONARY)
    assert slot.alpha_schedule is None
    assert slot.state.alpha == 1.0
    torch.testing.assert_close(slot(host_features), slot.seed(host_features))
    assert "alpha_schedule_config" not in slot.get_extra_state()
    assert not any(key.startswith("gate.") for key in slot.state_dict())


def test_start_blending_sets_the_length_of_the_ramp(make_slot):
    slot = make_slot()
    slot.start_blending(total_steps=4)
    assert slot.stage is SeedStage.BLENDING
    assert slot.alpha_schedule.total_steps == 4
    assert [slot.alpha_at(step) for step in range(5)] == [0.0, 0.25, 0.5, 0.75, 1.0]
    slot.step(3)
    slot.start_blending(total_steps=2)
    assert slot.alpha == 0.0
    assert slot.alpha_at(1) == 0.5
    with pytest.raises(ConfigError, match="total_steps=0"):
        slot.start_blending(total_steps=0)
    with pytest.raises(LifecycleError, match="germinate a seed first"):
        SeedSlot("mid", channels=8).start_blending(total_steps=4)


def test_a_slot_that_held_another_seed_takes_up_a_state_dict_and_an_empty_one_empties_it(make_slot):
    slot, other = make_slot("conv_light", "gated"), make_slot("attention", "linear")
    slot.isolate_gradients = False
    other.load_state_dict(slot.state_dict())
    assert other.state == slot.state
    assert other.isolate_gradients is False
    assert other.gate is not None
    other.load_state_dict(SeedSlot("mid", channels=8).state_dict())
    assert (other.state, other.seed, other.gate) == (None, None, None)


def test_restore_rebuilds_the_modules_of_a_plain_state(make_slot):
    slot = make_slot("bottleneck", "gated", SeedStage.BLENDING)
    fresh = SeedSlot("mid", channels=8)
    fresh.restore(json.loads(json.dumps(slot.state.to_dict())), "cnn")
    assert fresh.state == slot.state
    assert [(n, p.shape) for n, p in fresh.named_parameters()] == [(n, p.shape) for n, p in slot.named_parameters()]
    assert torch.equal(fresh.seed.body[-1].weight, torch.zeros_like(fresh.seed.body[-1].weight))
    state = SeedState(seed_id="s", blueprint_id="no_such", stage=SeedStage.TRAINING)
    with pytest.raises(BlueprintError, match="no cnn blueprint 'no_such'"):
        fresh.restore(state.to_dict(), "cnn")

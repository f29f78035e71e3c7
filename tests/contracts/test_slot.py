"""Contracts, section kasmina: a seed's state and its slot."""

import json
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from esper.kasmina.host import CNNHost, TransformerHost
from esper.kasmina.slot import QualityGates, SeedMetrics, SeedSlot, SeedState
from esper.leyline import SeedStage, SeedTelemetry

PLAIN = (type(None), bool, int, float, str)


def is_plain(value: Any) -> bool:
    """Of plain types, exactly: an IntEnum is no int here."""
    if type(value) is dict:
        return all(type(key) is str and is_plain(item) for key, item in value.items())
    return all(map(is_plain, value)) if type(value) is list else type(value) in PLAIN


@pytest.fixture
def lived() -> SeedState:
    """A state in which no field has its default."""
    state = SeedState(seed_id="s", blueprint_id="norm", slot_id="mid")
    for stage in (SeedStage.GERMINATED, SeedStage.TRAINING, SeedStage.BLENDING):
        state.transition(stage)
        state.metrics.record_accuracy(50.5)
        state.metrics.record_accuracy(61.25)
    state.alpha, state.is_healthy, state.is_paused = 0.3, False, True
    state.metrics.counterfactual_contribution, state.metrics.blending_delta = 1.5, -0.5
    state.metrics.isolation_violations, state.metrics.seed_gradient_norm_ratio = 2, 0.07
    state.sync_telemetry(0.7, 0.9, True, False, epoch=6, max_epochs=30)
    return state


# ---- SeedState


def test_a_state_takes_its_fields_by_name_alone() -> None:
    with pytest.raises(TypeError, match="positional"):
        SeedState("s", "norm")
    for missing in ({"seed_id": "s"}, {"blueprint_id": "norm"}):
        with pytest.raises(TypeError):
            SeedState(**missing)
    assert SeedState(seed_id="s", blueprint_id="there is no such blueprint").blueprint_id.startswith("there")


def test_a_state_starts_dormant() -> None:
    state = SeedState(seed_id="s", blueprint_id="norm")
    assert state.stage is SeedStage.DORMANT and isinstance(state.previous_stage, SeedStage)
    assert (state.slot_id, state.alpha, state.is_healthy, state.is_paused) == ("", 0.0, True, False)
    assert state.stage_entered_at.utcoffset() == timedelta(0)
    assert state.metrics == SeedMetrics() and isinstance(state.metrics, SeedMetrics)
    assert isinstance(state.stage_history, deque) and state.stage_history.maxlen
    assert isinstance(state.telemetry, SeedTelemetry)
    assert (state.telemetry.seed_id, state.telemetry.blueprint_id) == ("s", "norm")
    other = SeedState(seed_id="s", blueprint_id="norm")
    assert other.metrics is not state.metrics and other.stage_history is not state.stage_history


def test_a_state_has_slots_and_its_fields_are_free_to_assign() -> None:
    state = SeedState(seed_id="s", blueprint_id="norm")
    assert not hasattr(state, "__dict__")
    with pytest.raises(AttributeError):
        state.stagee = SeedStage.TRAINING
    for stage in (SeedStage.FOSSILIZED, SeedStage.TRAINING, SeedStage.UNKNOWN, SeedStage.BLENDING):
        state.stage = stage
        assert state.stage is stage
    for alpha in (0.4, 1.0, 0.0):
        state.alpha = alpha
        assert state.alpha == alpha
    state.metrics = SeedMetrics(epochs_total=3)
    assert state.metrics.epochs_total == 3


def test_a_transition_is_checked_and_remembered() -> None:
    state = SeedState(seed_id="s", blueprint_id="norm")
    with pytest.raises(ValueError, match=r"DORMANT.*BLENDING"):
        state.transition(SeedStage.BLENDING)
    assert state.stage is SeedStage.DORMANT and not state.stage_history
    entered_at = state.stage_entered_at
    state.transition(SeedStage.GERMINATED)
    assert (state.stage, state.previous_stage) == (SeedStage.GERMINATED, SeedStage.DORMANT)
    assert state.stage_entered_at >= entered_at and state.stage_entered_at.utcoffset() == timedelta(0)


def test_a_history_is_bounded() -> None:
    state = SeedState(seed_id="s", blueprint_id="norm")
    life = [SeedStage(value) for value in (2, 3, 4, 6, 8, 9, 10, 1)]
    for stage in life * 200:
        state.transition(stage)
    assert len(state.stage_history) == state.stage_history.maxlen < 1600
    assert state.stage_history[-1][0] is SeedStage.DORMANT
    assert len(state.to_dict()["stage_history"]) == state.stage_history.maxlen


def test_a_new_stage_counts_epochs_and_improvement_anew() -> None:
    state = SeedState(seed_id="s", blueprint_id="norm", stage=SeedStage.GERMINATED)
    state.metrics.record_accuracy(40.0)
    state.metrics.record_accuracy(50.0)
    state.transition(SeedStage.TRAINING)
    assert (state.metrics.epochs_total, state.metrics.epochs_in_current_stage) == (2, 0)
    state.metrics.record_accuracy(53.0)
    assert state.metrics.improvement_since_stage_start == 3.0


def test_telemetry_is_synced_from_the_state() -> None:
    state = SeedState(seed_id="s", blueprint_id="norm", stage=SeedStage.BLENDING, alpha=0.4)
    state.metrics.current_val_accuracy = 71.0
    state.metrics.improvement_since_stage_start = -1.5
    state.metrics.epochs_in_current_stage = 4
    before = state.telemetry.captured_at
    state.sync_telemetry(gradient_norm=2.0, gradient_health=0.5, has_vanishing=True, has_exploding=True)
    seen = state.telemetry
    assert (seen.gradient_norm, seen.gradient_health, seen.has_vanishing, seen.has_exploding) == (2.0, 0.5, True, True)
    assert (seen.accuracy, seen.accuracy_delta, seen.epochs_in_stage) == (71.0, -1.5, 4)
    assert (seen.stage, seen.alpha, seen.epoch, seen.max_epochs) == (4, 0.4, 0, 25)
    assert type(seen.stage) is int and seen.captured_at >= before
    assert (seen.seed_id, seen.blueprint_id) == ("s", "norm")
    state.sync_telemetry(2.0, 0.5, False, False, 7, 30)
    assert (state.telemetry.epoch, state.telemetry.max_epochs) == (7, 30)


def test_a_state_becomes_plain_values_and_itself_again(lived: SeedState) -> None:
    plain = lived.to_dict()
    assert is_plain(plain)
    assert type(plain["stage"]) is int and plain["stage"] == 4 and plain["previous_stage"] == 3
    assert datetime.fromisoformat(plain["stage_entered_at"]) == lived.stage_entered_at
    assert type(plain["stage_history"]) is list and len(plain["stage_history"]) == 3
    for read in (plain, json.loads(json.dumps(plain))):
        again = SeedState.from_dict(read)
        assert again == lived and again.to_dict() == plain
        assert again.stage is SeedStage.BLENDING and again.stage_history.maxlen == lived.stage_history.maxlen
        assert again.alpha == 0.3 and isinstance(again.metrics, SeedMetrics)
    assert SeedState.from_dict(plain).metrics is not lived.metrics
    fresh = SeedState(seed_id="s", blueprint_id="norm")
    assert SeedState.from_dict(fresh.to_dict()) == fresh


def test_figures_of_numpy_and_torch_become_plain_too(lived: SeedState) -> None:
    lived.alpha = torch.tensor(0.5)
    lived.metrics.record_accuracy(np.float64(61.5))
    lived.metrics.counterfactual_contribution = np.float32(0.5)
    lived.sync_telemetry(np.float64(0.7), torch.tensor(0.5), np.bool_(True), False)
    assert is_plain(lived.to_dict())
    assert SeedState.from_dict(lived.to_dict()) == lived


@pytest.mark.parametrize("stage", [SeedStage.PROBATIONARY, SeedStage.FOSSILIZED, SeedStage.CULLED])
def test_a_round_trip_leaves_an_assigned_alpha_alone(stage: SeedStage) -> None:
    state = SeedState(seed_id="s", blueprint_id="norm", stage=stage, alpha=0.5)
    assert state.alpha == 0.5
    assert SeedState.from_dict(state.to_dict()).alpha == 0.5


# ---- SeedSlot


def test_a_slot_is_a_module_that_is_the_identity_until_planted(features: Tensor) -> None:
    slot = SeedSlot("mid", channels=8, device="cpu")
    assert isinstance(slot, nn.Module) and slot.state is None and slot.alpha_schedule is None and slot.alpha == 0.0
    assert torch.equal(slot(features), features) and torch.equal(slot.forward(host_features=features), features)
    assert SeedSlot(slot_id="mid", channels=8, device=torch.device("cpu")).device == torch.device("cpu")


def test_germination_takes_the_width_from_the_slot_and_the_topology_from_the_host(features: Tensor) -> None:
    decoder = TransformerHost(vocab_size=11, n_embd=16, n_head=2, n_layer=1, block_size=8)
    slot = SeedSlot("mid", channels=12, device="cpu")  # of another width than the host's
    slot.germinate("lora", "s", host_module=decoder)
    slot.state.transition(SeedStage.TRAINING)
    tokens = torch.randn(2, 5, 12)
    assert torch.equal(slot(tokens), tokens)
    with pytest.raises(ValueError, match="lora"):
        SeedSlot("mid", channels=8, device="cpu").germinate("lora", "s", host_module=CNNHost())


def test_germination_fills_the_slot(slot: SeedSlot, features: Tensor) -> None:
    assert (slot.state.seed_id, slot.state.blueprint_id, slot.state.slot_id) == ("seed-1", "conv_light", "mid")
    assert slot.state.stage is SeedStage.GERMINATED and slot.alpha == slot.state.alpha == 0.0
    assert list(slot.parameters()) and torch.equal(slot(features), features)
    with pytest.raises(ValueError, match="seed-1"):
        slot.germinate("norm", "seed-2", host_module=CNNHost())


def test_training_is_straight_through(slot: SeedSlot, features: Tensor) -> None:
    slot.state.transition(SeedStage.TRAINING)
    assert slot.isolate_gradients
    for parameter in slot.parameters():
        nn.init.normal_(parameter)
    features.requires_grad_()
    output = slot(features)
    assert torch.equal(output, features)
    weight = torch.randn_like(output)
    (output * weight).sum().backward()
    assert torch.equal(features.grad, weight)  # the seed's path added nothing
    assert all(parameter.grad is not None and parameter.grad.norm() > 0 for parameter in slot.parameters())


def test_a_blend_moves_from_the_host_to_the_seed(slot: SeedSlot, features: Tensor) -> None:
    for parameter in slot.parameters():
        nn.init.normal_(parameter)
    slot.eval()
    slot.start_blending(total_steps=4)
    assert slot.state.stage is SeedStage.BLENDING and slot.state.alpha == slot.alpha == 0.0
    assert slot.alpha_schedule is not None and slot.alpha_schedule.total_steps == 4
    outputs, alphas = [slot(features)], [slot.alpha]
    for _ in range(4):
        slot.step()
        alphas.append(slot.alpha)
        outputs.append(slot(features))
    assert alphas == sorted(alphas) and (alphas[0], alphas[-1]) == (0.0, 1.0)
    assert torch.equal(outputs[0], features) and not torch.allclose(outputs[-1], features)
    torch.testing.assert_close(outputs[2], features + alphas[2] * (outputs[-1] - features))
    features.requires_grad_()
    slot(features).square().sum().backward()
    assert not torch.allclose(features.grad, 2 * outputs[-1].detach())  # both paths reach the host now


@pytest.mark.parametrize("blend", ["sigmoid", "linear", "gated"])
@pytest.mark.parametrize("how", ["transition", "assignment", "gates"])
def test_a_blend_that_is_over_is_whole(how: str, blend: str, features: Tensor) -> None:
    slot = SeedSlot("mid", channels=8, device="cpu")
    slot.germinate("conv_light", "s", CNNHost(), blend)
    slot.start_blending(total_steps=10)
    slot.step(10 if how == "gates" else 3)
    match how:
        case "transition":
            slot.state.transition(SeedStage.PROBATIONARY)
        case "assignment":
            slot.state.stage = SeedStage.PROBATIONARY
        case "gates":
            slot.end_epoch(50.0, QualityGates())
    assert slot.state.stage is SeedStage.PROBATIONARY
    assert slot.alpha_schedule is None and slot.state.alpha == slot.alpha == 1.0
    slot.step()
    assert slot.alpha == 1.0
    slot.eval()
    whole = slot(features)
    slot.state.transition(SeedStage.FOSSILIZED)
    assert slot.alpha_schedule is None and torch.equal(slot(features), whole)


@pytest.mark.parametrize("blend", ["sigmoid", "linear", "gated"])
def test_extra_state_is_plain(grown: Callable, blend: str) -> None:
    for stage in (None, SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.PROBATIONARY, SeedStage.FOSSILIZED):
        slot = grown(stage, blend).slots["mid"]
        extra = slot.get_extra_state()
        assert is_plain(extra)
        assert extra["isolate_gradients"] is True
        assert extra["seed_state"] == slot.state.to_dict()
        schedules = [value for name, value in extra.items() if "schedule" in name and value is not None]
        if stage is SeedStage.BLENDING:
            assert [(blend, 10)] == [(schedule["algorithm_id"], schedule["total_steps"]) for schedule in schedules]
        else:
            assert not schedules
    slot.isolate_gradients = False
    assert slot.get_extra_state()["isolate_gradients"] is False
    empty = SeedSlot("mid", channels=8, device="cpu").get_extra_state()
    assert is_plain(empty) and empty["seed_state"] is None


def test_the_shape_probe_is_kept_until_the_device_changes() -> None:
    slot = SeedSlot("mid", channels=8, device="cpu")
    images, tokens = slot._get_shape_probe("cnn"), slot._get_shape_probe("transformer")
    assert images.dim() == 4 and images.shape[1] == 8 and tokens.dim() == 3 and tokens.shape[-1] == 8
    slot.device = torch.device("cpu")  # the same one
    assert slot._get_shape_probe("cnn") is images and slot._get_shape_probe("transformer") is tokens
    slot.device = "meta"
    assert slot._get_shape_probe("cnn").device.type == "meta" and slot._get_shape_probe("cnn") is not images
    assert slot._get_shape_probe("cnn") is slot._get_shape_probe("cnn")
    slot.device = "cpu"
    assert slot._get_shape_probe("cnn").device.type == "cpu"

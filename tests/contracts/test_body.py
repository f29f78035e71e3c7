"""Contracts, section kasmina: hosts and the morphogenetic model."""

import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina.host import CNNHost, MorphogeneticModel, TransformerHost
from esper.leyline import SeedStage
from esper.simic.features import TaskConfig

EVERY_STAGE = [stage for stage in SeedStage if stage is not SeedStage.UNKNOWN]
BLENDS = ("sigmoid", "linear", "gated")


@pytest.fixture
def decoder() -> TransformerHost:
    return TransformerHost(vocab_size=11, n_embd=16, n_head=2, n_layer=2, block_size=8)


def test_an_image_host_needs_no_argument() -> None:
    assert CNNHost()(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert len(CNNHost()._slot_keys) == 3
    assert CNNHost(7, 2)(torch.randn(2, 3, 16, 16)).shape == (2, 7)
    assert len(CNNHost(num_classes=10, n_blocks=5)._slot_keys) == 5


def test_a_language_host_gives_logits_for_every_position(decoder: TransformerHost) -> None:
    assert decoder(torch.zeros(2, 5, dtype=torch.int64)).shape == (2, 5, 11)
    assert decoder(torch.zeros(2, 8, dtype=torch.int64)).shape == (2, 8, 11)
    assert TransformerHost(11, 16, 2, 2, 8)(torch.zeros(1, 1, dtype=torch.int64)).shape == (1, 1, 11)


def test_slot_keys_are_computed_once(decoder: TransformerHost) -> None:
    for host in (CNNHost(), decoder):
        assert isinstance(host._slot_keys, tuple) and all(isinstance(key, str) for key in host._slot_keys)
        assert host._slot_keys is host._slot_keys


def test_too_long_a_sequence_is_a_value_error(decoder: TransformerHost) -> None:
    with pytest.raises(ValueError, match="exceeds block_size"):
        decoder(torch.zeros(1, 9, dtype=torch.int64))


def test_too_long_a_sequence_is_a_value_error_when_compiled_too(compiled: Callable, decoder: TransformerHost) -> None:
    host = compiled(decoder)
    with pytest.raises(ValueError, match="exceeds block_size"):
        host(torch.zeros(1, 9, dtype=torch.int64))
    for length in (8, 3):  # and what fits goes on working
        tokens = torch.randint(11, (2, length))
        torch.testing.assert_close(host(tokens), decoder(tokens))
    with pytest.raises(ValueError, match="exceeds block_size"):
        host(torch.zeros(2, 10, dtype=torch.int64))


def test_bare_hosts_compile_into_one_graph(compiled: Callable, decoder: TransformerHost) -> None:
    images = CNNHost(channels=(4, 8, 8))
    for host, inputs in ((images, torch.randn(2, 3, 16, 16)), (decoder, torch.randint(11, (2, 8)))):
        host.eval()
        torch.testing.assert_close(compiled(host)(inputs), host(inputs))


def test_a_grown_host_compiles_into_one_graph(compiled: Callable, grown: Callable) -> None:
    model, inputs = grown(SeedStage.TRAINING, "gated"), torch.randn(2, 3, 16, 16)
    host, slot = compiled(model.host), model.slots["mid"]
    host(inputs).square().sum().backward()
    slot.start_blending(total_steps=12)
    for _ in range(12):  # alpha moves on: not a graph a step
        host(inputs)
        slot.step()
    for stage in (SeedStage.PROBATIONARY, SeedStage.FOSSILIZED):
        slot.state.transition(stage)
        model.eval()
        torch.testing.assert_close(host(inputs), model.host(inputs))


@pytest.mark.parametrize("with_gradient", [False, True])
def test_a_grown_language_host_compiles_into_one_graph(compiled: Callable, with_gradient: bool) -> None:
    host = TransformerHost(vocab_size=11, n_embd=16, n_head=2, n_layer=1, block_size=8)
    model = MorphogeneticModel(host, "cpu", ["early"], TaskConfig("transformer", 4))
    model.germinate_seed("flex_attention", "s", "early", "gated")
    model.slots["early"].start_blending(total_steps=4)
    model.slots["early"].step(2)
    model.eval()
    tokens = torch.randint(11, (2, 8))
    with torch.set_grad_enabled(with_gradient):
        torch.testing.assert_close(compiled(model)(tokens), model(tokens))


def test_a_model_is_built_by_name_and_asked_for_its_seeds(grown: Callable) -> None:
    model = grown(is_planted=False)
    assert isinstance(model, nn.Module) and list(model.slots) == ["early", "mid", "late"]
    assert not model.has_active_seed and model.seed_state is None and list(model.get_seed_parameters()) == []
    images = torch.randn(2, 3, 16, 16)
    model.eval()
    torch.testing.assert_close(model(images), model.host(images))

    model.germinate_seed(blueprint_id="norm", seed_id="first", slot="mid")
    assert model.has_active_seed
    assert model.seed_state is model.slots["mid"].state
    assert (model.seed_state.seed_id, model.seed_state.blueprint_id) == ("first", "norm")
    assert model.seed_state.slot_id == "mid" and model.seed_state.stage is SeedStage.GERMINATED
    own = {id(parameter) for parameter in model.slots["mid"].parameters()}
    assert {id(parameter) for parameter in model.get_seed_parameters()} == own and own


def test_a_model_knows_its_unknown_slots_blends_and_blueprints(grown: Callable) -> None:
    model = grown(is_planted=False)
    for wrong in ({"slot": "middle"}, {"blend_algorithm_id": "cubic"}, {"blueprint_id": "conv_lihgt"}):
        with pytest.raises(Exception, match=next(iter(wrong.values()))):
            model.germinate_seed(**{"blueprint_id": "norm", "seed_id": "s", "slot": "mid"} | wrong)
        assert not model.has_active_seed


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_a_device_is_text_or_a_device_and_can_be_assigned(device: str | torch.device) -> None:
    model = MorphogeneticModel(host=CNNHost(channels=(4, 4, 4)), device=device, slots=["mid"])
    model.germinate_seed("norm", "s", "mid")
    for holder in (model, model.slots["mid"]):
        assert torch.device(holder.device) == torch.device("cpu")
        holder.device = device
        assert torch.device(holder.device) == torch.device("cpu")
    for target in ("meta", torch.device("meta")):
        model.device = target
        assert {tensor.device.type for tensor in model.state_dict().values() if isinstance(tensor, Tensor)} == {"meta"}
        assert model.slots["mid"].device == torch.device("meta")


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("stage", EVERY_STAGE, ids=lambda stage: stage.name)
def test_a_state_dict_comes_back_through_a_safe_load(grown: Callable, stage: SeedStage, blend: str) -> None:
    model, images = grown(stage, blend), torch.randn(2, 3, 16, 16)
    for parameter in model.parameters():  # nothing that is zero at first may hide a loss
        nn.init.normal_(parameter, std=0.1)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    twin = grown(is_planted=False)
    twin.load_state_dict(torch.load(buffer, weights_only=True))

    before, after = model.slots["mid"], twin.slots["mid"]
    assert after.state.stage is stage and after.state == before.state
    assert (after.alpha, after.alpha_schedule) == (before.alpha, before.alpha_schedule)
    assert after.isolate_gradients == before.isolate_gradients
    assert torch.equal(model.eval()(images), twin.eval()(images))
    for left, right in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(left, right)
    for slot in (before, after):  # and both go on alike
        slot.step(2)
    assert torch.equal(model(images), twin(images))

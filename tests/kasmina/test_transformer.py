import io
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from esper.errors import ConfigError
from esper.kasmina.host import MorphogeneticModel, TransformerHost
from esper.leyline import SeedStage, TaskConfig

STAGES = (SeedStage.GERMINATED, SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.PROBATIONARY, SeedStage.FOSSILIZED)
BLEND = ("norm", "attention", "mlp")


def named(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def host() -> TransformerHost:
    return TransformerHost(vocab_size=11, n_embd=8, n_head=2, n_layer=3, block_size=12, generator=named())


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(11, (4, 12), generator=named(1))


def test_a_decoder_turns_tokens_into_logits_of_the_next(host, tokens):
    assert host(tokens).shape == (4, 12, 11)
    assert host(tokens[:, :1]).shape == (4, 1, 11)
    assert host.injection_points == {"block1": 8, "block2": 8, "block3": 8}
    assert host._slot_keys == ("block1", "block2", "block3")
    assert host.topology == "transformer"


def test_nothing_is_tied_and_the_parameters_are_those_of_the_layers(host):
    layer = 2 * 2 * 8 + (8 * 24 + 24) + (8 * 8 + 8) + (8 * 32 + 32) + (32 * 8 + 8)
    expected = 11 * 8 + 12 * 8 + 3 * layer + 2 * 8 + 8 * 11 + 11
    assert sum(parameter.numel() for parameter in host.parameters()) == expected


def test_a_decoder_traces(host, tokens):
    traced = torch.fx.symbolic_trace(host)
    for length in (12, 5):
        assert torch.equal(traced(tokens[:, :length]), host(tokens[:, :length]))
    with pytest.raises(ValueError, match="exceeds block_size"):
        traced(torch.zeros(1, 13, dtype=torch.int64))


def test_no_prediction_depends_on_tokens_after_it_with_seeds_in_every_slot(host, tokens):
    model = MorphogeneticModel(host)
    for blueprint, slot in zip(BLEND, model.slots, strict=True):
        model.germinate_seed(blueprint, slot, slot, "gated")
        model.slots[slot].start_blending(total_steps=4)
        model.slots[slot].step(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=named(2))
    changed = tokens.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % 11
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(after[:, :7], before[:, :7], rtol=0, atol=1e-5)
    assert (after[:, 7:] - before[:, 7:]).abs().amax((1, 2)).min() > 0.01


def test_every_prediction_depends_on_all_tokens_up_to_it(host, tokens):
    with torch.no_grad():
        for parameter in host.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=named(2))
    changed = tokens.clone()
    changed[:, 0] = (changed[:, 0] + 1) % 11
    assert (host(changed) - host(tokens)).abs().amax((0, 2)).min() > 1e-4


def test_weights_follow_the_generator_and_leave_the_global_stream_alone():
    before = torch.get_rng_state()
    hosts = [TransformerHost(5, 8, 2, 1, 4, named(seed)) for seed in (1, 1, 2)]
    assert torch.equal(hosts[0].head.weight, hosts[1].head.weight)
    assert not torch.equal(hosts[0].head.weight, hosts[2].head.weight)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_untrained_decoder_gives_all_tokens_about_even_odds(host, tokens):
    logits = host(tokens).flatten(0, 1)
    assert F.cross_entropy(logits, tokens.flatten()).item() == pytest.approx(torch.tensor(11.0).log().item(), abs=0.3)


@pytest.mark.slow
def test_a_decoder_learns_a_rule_of_two_tokens():
    host = TransformerHost(5, 16, 2, 2, 12, named())
    optimizer = torch.optim.AdamW(host.parameters(), lr=1e-2)
    for step in range(150):
        tokens = torch.randint(5, (16, 13), generator=named(step))
        for i in range(2, 13):
            tokens[:, i] = (tokens[:, i - 1] + tokens[:, i - 2]) % 5
        loss = F.cross_entropy(host(tokens[:, :-1])[:, 1:].flatten(0, 1), tokens[:, 2:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2  # even odds are 1.6


@pytest.mark.parametrize(
    ("sizes", "key"),
    [
        ((0, 8, 2, 1, 4), "vocab_size"),
        ((5, 8, 3, 1, 4), "n_head"),
        ((5, 8, 0, 1, 4), "n_head"),
        ((5, 8, 2, 0, 4), "n_layer"),
    ],
)
def test_sizes_that_do_not_fit_are_named(sizes, key):
    with pytest.raises(ConfigError, match=f"host.{key}="):
        TransformerHost(*sizes)


def test_a_language_model_knows_its_task_and_its_slots(host):
    task = TaskConfig(topology="transformer", blending_steps=7)
    model = MorphogeneticModel(host=host, device="cpu", slots=["early", "late"], task_config=task)
    assert {name: slot.channels for name, slot in model.slots.items()} == {"early": 8, "late": 8}
    state = model.germinate_seed("lora", "a", "late")
    assert (state.ramp_steps, model.slots["late"].topology) == (7, "transformer")
    assert model.slots["late"]._get_shape_probe("transformer").shape[-1] == 8


@pytest.mark.parametrize(("stage", "blend"), list(product(STAGES, ["sigmoid", "gated"])), ids=str)
def test_a_fresh_model_takes_up_a_saved_state_dict_in_every_stage(host, tokens, stage, blend):
    model = MorphogeneticModel(host)
    for blueprint, slot in zip(BLEND, model.slots, strict=True):
        model.germinate_seed(blueprint, slot, slot, blend)
        for step in STAGES[1 : STAGES.index(stage) + 1]:
            model.slots[slot].state.transition(step)
        model.slots[slot].step(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=named(2))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh = MorphogeneticModel(TransformerHost(11, 8, 2, 3, 12))
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert {n: s.state for n, s in fresh.slots.items()} == {n: s.state for n, s in model.slots.items()}
    assert torch.equal(fresh(tokens), model(tokens))

from itertools import product

import pytest
import torch
import torch.nn.functional as F

from esper.errors import ConfigError
from esper.kasmina import BlueprintRegistry, Decoder, MorphogeneticModel
from esper.kasmina.rotary import RotaryAttention

VOCAB = 264


def named(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def decoder(window: int | None = None, n_layer: int = 2, block_size: int = 64) -> Decoder:
    return Decoder(VOCAB, 64, 2, n_layer, block_size, window, named()).eval()


def tokens(batch: int, length: int = 64) -> torch.Tensor:
    return torch.randint(VOCAB, (batch, length), generator=named(1))


@pytest.mark.parametrize(
    ("sizes", "count"),
    [((64, 2, 2, 64), 117_568), ((128, 4, 4, 128), 837_760), ((512, 8, 8, 256), 25_440_768)],
    ids=["nano", "small", "base"],
)
def test_the_sizes_of_the_forge_have_the_parameters_that_they_are_named_for(sizes, count):
    network = Decoder(VOCAB, *sizes)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_its_parameters_have_the_names_that_others_work_by():
    layer = ["attention_norm", *(f"attention.{part}" for part in ("query", "key", "value", "proj")), "mlp_norm"]
    layer += [f"mlp.{part}" for part in ("gate", "up", "down")]
    expected = ["embedding", *(f"layers.{index}.{name}" for index in range(2) for name in layer), "norm"]
    network = decoder()
    assert [name.removesuffix(".weight") for name, _ in network.named_parameters()] == expected
    assert network.state_dict().keys() == dict(network.named_parameters()).keys()
    linear = {name for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)}
    assert linear == {name for name in expected if name.startswith("layers.") and not name.endswith("norm")}
    assert not any(network.get_submodule(name).bias is not None for name in linear)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("batch", "count", "window"), list(product((1, 16), (1, 2), (None, 16))))
def test_a_token_that_changes_leaves_every_earlier_logit_bit_for_bit_as_it_was(batch, count, window):
    torch.set_num_threads(count)
    network, x = decoder(window), tokens(batch)
    with torch.no_grad():
        before = network(x)
        for place in (0, 1, 15, 16, 31, 32, 33, 62, 63) if batch == 1 else (0, 16, 33, 62):
            changed = x.clone()
            changed[:, place] = (changed[:, place] + 1) % VOCAB
            after = network(changed)
            assert torch.equal(after[:, :place], before[:, :place])
            assert not torch.equal(after[:, place], before[:, place])


@pytest.mark.parametrize(("window", "reach"), [(None, 12), (3, 3), (1, 1)])
def test_a_layer_looks_back_as_far_as_its_window(window, reach):
    attention = RotaryAttention(16, 2, window)
    x = torch.randn(1, 12, 16, generator=named()).requires_grad_()
    attention(x)[0, -1].sum().backward()
    seen = x.grad.abs().amax((0, 2)) > 0
    assert seen.tolist() == [False] * (12 - reach) + [True] * reach


def test_attention_depends_on_how_far_tokens_are_apart_and_not_on_where_they_stand():
    attention = RotaryAttention(16, 2, window=3)
    x = torch.randn(1, 12, 16, generator=named())
    moved = attention(x.roll(4, dims=1))[:, 6:]
    torch.testing.assert_close(moved, attention(x)[:, 2:8], rtol=0, atol=1e-5)
    turned = x.clone()
    turned[:, [4, 5]] = x[:, [5, 4]]  # the same tokens in another order
    assert (attention(turned)[:, 6] - attention(x)[:, 6]).abs().max() > 1e-3


def test_attention_is_what_its_paper_says():
    attention, x = RotaryAttention(8, 2), torch.randn(1, 5, 8, generator=named())
    query, key, value = (part(x)[0].view(5, 2, 2, 2) for part in (attention.query, attention.key, attention.value))
    rates = torch.tensor([1.0, 10_000**-0.5])  # a head has four features, two pairs
    turn = torch.polar(torch.ones(5, 2), torch.outer(torch.arange(5.0), rates))[:, None]  # [T, 1, pair]
    out = torch.zeros(5, 2, 4)
    for head, place in product(range(2), range(5)):
        turned = [torch.complex(part[..., 0, :], part[..., 1, :]) * turn for part in (query, key)]
        scores = (turned[0][place, head].conj() * turned[1][: place + 1, head]).real.sum(-1) / 2
        out[place, head] = scores.softmax(0) @ value[: place + 1, head].reshape(-1, 4)
    torch.testing.assert_close(attention(x)[0], attention.proj(out.view(5, 8)))


@pytest.mark.parametrize("window", [None, 5])
def test_reading_token_by_token_gives_the_same_logits(window):
    network, x = decoder(window), tokens(3, 20)
    cache = network.new_cache()
    with torch.inference_mode():
        parts = [network.extend(x[:, :7], cache), *(network.extend(x[:, i : i + 1], cache) for i in range(7, 20))]
        torch.testing.assert_close(torch.cat(parts, 1), network(x), rtol=0, atol=1e-5)


def test_a_cache_holds_no_more_than_the_longest_sequence():
    network = decoder(block_size=8)
    cache = network.new_cache()
    network.extend(tokens(1, 8), cache)
    with pytest.raises(ValueError, match="9 tokens exceed block_size=8"):
        network.extend(tokens(1, 1), cache)
    with pytest.raises(ValueError, match="exceeds block_size=8"):
        network(tokens(1, 9))


def test_a_decoder_that_has_grown_reads_all_at_once():
    model = MorphogeneticModel(decoder(), slots=["early"])
    assert not model.host.caches and decoder().caches


def test_a_seed_grows_in_every_slot_and_none_looks_ahead():
    model = MorphogeneticModel(decoder(n_layer=3), slots=["early", "mid", "late"]).eval()
    for slot, blueprint in zip(model.slots, ("attention", "mlp", "lora"), strict=True):
        model.germinate_seed(blueprint, slot, slot, "gated")
        model.slots[slot].start_blending(total_steps=4)
        model.slots[slot].step(2)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=named(2))
    x = tokens(2)
    changed = x.clone()
    changed[:, 40:] = (changed[:, 40:] + 1) % VOCAB
    assert torch.equal(model(changed)[:, :40], model(x)[:, :40])
    assert {spec.topology for spec in BlueprintRegistry.list_specs(model.host.topology)} == {"transformer"}


def test_a_decoder_traces():
    network, x = decoder(8), tokens(2, 20)
    assert torch.equal(torch.fx.symbolic_trace(network)(x), network(x))


@pytest.mark.slow
def test_a_decoder_compiles_into_one_graph():
    network, x = decoder(8), tokens(2, 20)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), network(x))
    with pytest.raises(ValueError, match="exceeds block_size=64"):
        compiled(tokens(1, 65))


def test_weights_follow_the_generator_and_leave_the_global_stream_alone():
    before = torch.get_rng_state()
    networks = [Decoder(5, 8, 2, 1, 4, generator=named(seed)) for seed in (1, 1, 2)]
    states = [torch.cat([parameter.flatten() for parameter in network.parameters()]) for network in networks]
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_an_untrained_decoder_gives_all_tokens_about_even_odds():
    x = tokens(4)
    loss = F.cross_entropy(decoder()(x).flatten(0, 1), torch.randint(VOCAB, (4 * 64,), generator=named(3)))
    assert loss.item() == pytest.approx(torch.tensor(float(VOCAB)).log().item(), abs=0.7)


@pytest.mark.slow
def test_a_decoder_learns_a_rule_of_two_tokens():
    network = Decoder(5, 16, 2, 2, 12, generator=named())
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for step in range(150):
        x = torch.randint(5, (16, 13), generator=named(step))
        for i in range(2, 13):
            x[:, i] = (x[:, i - 1] + x[:, i - 2]) % 5
        loss = F.cross_entropy(network(x[:, :-1])[:, 1:].flatten(0, 1), x[:, 2:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2  # even odds are 1.6


def test_flops_count_the_head_and_the_pairs_within_the_window():
    length, hidden = 6, 32
    pairs = {None: 21, 3: 1 + 2 + 3 + 3 + 3 + 3}
    for window, count in pairs.items():
        model = MorphogeneticModel(Decoder(11, 8, 2, 1, 8, window), slots=["early"])
        layer = length * (4 * 2 * 8 * 8 + 3 * 2 * 8 * hidden + 3 * 4 * 8 + 6 * 8) + count * 4 * 8
        assert model.flops_per_sample((length,)) == layer + length * 2 * 11 * 8


@pytest.mark.parametrize(
    ("sizes", "key"),
    [
        ((0, 8, 2, 1, 4), "vocab_size"),
        ((5, 8, 3, 1, 4), "n_head"),
        ((5, 6, 2, 1, 4), "n_head"),
        ((5, 8, 0, 1, 4), "n_head"),
        ((5, 8, 2, 0, 4), "n_layer"),
        ((5, 8, 2, 1, 4, 0), "window"),
    ],
)
def test_sizes_that_do_not_fit_are_named(sizes, key):
    with pytest.raises(ConfigError, match=f"host.{key}="):
        Decoder(*sizes)

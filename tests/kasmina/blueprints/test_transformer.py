import pytest
import torch
from torch import nn

from esper.kasmina.blueprints.registry import BlueprintRegistry

WIDTH = 32


def named(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grown(name: str, **options: object) -> nn.Module:
    """A seed whose every weight has moved; the same each time."""
    seed = BlueprintRegistry.create("transformer", name, WIDTH, **options)
    generator = named(1)
    with torch.no_grad():
        for parameter in seed.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return seed


def test_checkpointing_draws_nothing_from_the_global_stream():
    seed, before = grown("mlp", checkpoint=True), torch.get_rng_state()
    seed(torch.ones(1, 2, WIDTH)).sum().backward()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_flex_attention_is_attention():
    plain, flex = grown("attention"), grown("flex_attention")
    assert plain.state_dict().keys() == flex.state_dict().keys()
    for length in (7, 130):  # 130 is more than one block of the mask
        x = torch.randn(2, length, WIDTH, generator=named(length))
        with torch.no_grad():
            torch.testing.assert_close(flex(x), plain(x), rtol=1e-4, atol=1e-5)


def test_flex_attention_does_not_look_ahead():
    flex = grown("flex_attention").eval()
    before = torch.randn(1, 130, WIDTH, generator=named())
    for place in (1, 64, 129):
        after = before.clone()
        after[:, place:] += 1.0
        with torch.no_grad():
            difference = (flex(after) - flex(before)).abs().amax((0, 2))
        assert difference[:place].max() == 0.0
        assert difference[place:].min() > 1e-3


def test_flex_attention_trains_on_a_cpu_too():
    flex, plain = grown("flex_attention"), grown("attention")
    x = torch.randn(2, 9, WIDTH, generator=named())
    for seed in (flex, plain):
        seed(x).square().sum().backward()
    for mine, its in zip(flex.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad)


@pytest.mark.parametrize(("width", "heads"), [(64, 4), (32, 2), (40, 2), (8, 1), (50, 2), (17, 1)])
def test_heads_are_about_sixteen_wide_and_divide_the_width(width, heads):
    assert BlueprintRegistry.create("transformer", "attention", width).body[1].n_head == heads

import pytest
import torch

from esper.simic.on_policy.networks import KINDS, ActorCritic


def network(kind: str, seed: int = 0, **options: object) -> ActorCritic:
    return ActorCritic(5, 7, (16, 12), kind, generator=torch.Generator().manual_seed(seed), **options)  # type: ignore[arg-type]


def inputs(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_come_of_the_generator_alone(kind: str) -> None:
    before = torch.get_rng_state()
    first, second, other = network(kind), network(kind), network(kind, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.policy_head.weight, other.policy_head.weight)


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_out_nearly_even_or_by_its_bias(kind: str) -> None:
    bias = torch.arange(7.0)
    logits, values, _ = network(kind)(inputs(3), network(kind).first_memory(3))
    assert logits.shape == (3, 7) and values.shape == (3,) and logits.abs().max() < 0.1
    biased, _, _ = network(kind, bias=bias)(inputs(3), network(kind).first_memory(3))
    torch.testing.assert_close(biased - logits, bias.expand(3, -1))


def test_a_sequence_is_its_steps_with_the_memory_cleared_at_starts() -> None:
    lstm, observations = network("lstm"), inputs(6, 4)
    starts = torch.rand(6, 4, generator=torch.Generator().manual_seed(2)) < 0.3
    first = memory = torch.randn(4, lstm.memory_size, generator=torch.Generator().manual_seed(3))
    steps = []
    for seen, start in zip(observations, starts, strict=True):
        logits, values, memory = lstm(seen, memory.masked_fill(start.unsqueeze(1), 0))
        steps.append((logits, values))
    logits, values = lstm.sequence(observations, starts, first)
    assert torch.equal(logits, torch.stack([step[0] for step in steps]))
    assert torch.equal(values, torch.stack([step[1] for step in steps]))


def test_what_was_before_a_start_is_forgotten() -> None:
    lstm, observations = network("lstm"), inputs(3, 1)
    starts = torch.tensor([[False], [True], [False]])
    other = torch.cat([observations[:1] + 1, observations[1:]])
    one, two = (lstm.sequence(seen, starts, torch.zeros(1, lstm.memory_size))[0] for seen in (observations, other))
    assert not torch.equal(one[0], two[0]) and torch.equal(one[1:], two[1:])


def test_an_mlp_has_no_memory_and_two_trunks() -> None:
    mlp = network("mlp")
    assert mlp.first_memory(3) is None
    mlp(inputs(3))[1].sum().backward()
    assert all(parameter.grad is None for parameter in [*mlp.actor.parameters(), *mlp.policy_head.parameters()])
    torch.testing.assert_close(mlp.sequence(inputs(2, 3))[1], torch.stack([mlp(step)[1] for step in inputs(2, 3)]))


@pytest.mark.parametrize("kind", KINDS)
def test_another_scale_of_values_leaves_what_is_predicted(kind: str) -> None:
    one = network(kind)
    memory = one.first_memory(3)
    before = one(inputs(3), memory)[1]
    one.rescale_values(120.0, 35.0)
    torch.testing.assert_close(one(inputs(3), memory)[1], before, atol=1e-4, rtol=0)
    one.rescale_values(-3.0, 0.1)
    torch.testing.assert_close(one(inputs(3), memory)[1], before, atol=1e-4, rtol=0)
    assert one.value_scale.item() == pytest.approx(0.1)

"""The identities of merging: what a weight of 0 or 1 must give, what is tied, and what is random in expectation."""

import math

import pytest
import torch

from esper.errors import EsperError
from esper.forge.evomerge import methods
from esper.forge.evomerge.groups import group_names, layer_groups, weights_by_name

NAMES = ("embedding.weight", "layers.0.attention.query.weight", "layers.0.mlp.up.weight", "norm.weight")


def model(seed: int) -> methods.State:
    generator = torch.Generator().manual_seed(seed)
    state = {name: torch.randn(5, 7, generator=generator) for name in NAMES}
    return state | {"head.weight": state["embedding.weight"]}


TRUNK, EXPERTS = model(0), [model(seed) for seed in (1, 2, 3)]


def same(one: methods.State, other: methods.State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("expert", range(3))
def test_weight_one_gives_a_parent_exactly(expert):
    weights = torch.eye(3)[expert]
    assert same(methods.linear(EXPERTS, weights), EXPERTS[expert])
    assert same(methods.task_arithmetic(TRUNK, EXPERTS, weights), EXPERTS[expert])
    assert same(methods.passthrough(EXPERTS, dict.fromkeys(TRUNK, expert)), EXPERTS[expert])


def test_weight_zero_of_task_arithmetic_is_the_trunk():
    assert same(methods.task_arithmetic(TRUNK, EXPERTS, torch.zeros(3)), TRUNK)


def test_the_soup_is_the_mean_by_either_way():
    soup = methods.linear(EXPERTS, torch.full((3,), 1 / 3))
    by_vectors = methods.task_arithmetic(TRUNK, EXPERTS, torch.full((3,), 1 / 3))
    for name in TRUNK:
        mean = torch.stack([expert[name] for expert in EXPERTS]).mean(0)
        torch.testing.assert_close(soup[name], mean)
        torch.testing.assert_close(by_vectors[name], mean)


def test_slerp_ends_at_its_parents_and_keeps_to_the_arc():
    assert same(methods.slerp(EXPERTS[0], EXPERTS[1], 0), EXPERTS[0])
    assert same(methods.slerp(EXPERTS[0], EXPERTS[1], 1), EXPERTS[1])
    turned = methods.slerp({"w": torch.tensor([2.0, 0.0])}, {"w": torch.tensor([0.0, 2.0])}, 0.5)
    torch.testing.assert_close(turned["w"], torch.full((2,), math.sqrt(2)))


def test_slerp_of_parallel_models_is_their_chord():
    halfway = methods.slerp({"w": torch.ones(4)}, {"w": torch.full((4,), 3.0)}, 0.5)
    torch.testing.assert_close(halfway["w"], torch.full((4,), 2.0))
    nothing = methods.slerp({"w": torch.zeros(4)}, {"w": torch.ones(4)}, 0.25)
    torch.testing.assert_close(nothing["w"], torch.full((4,), 0.25))


def test_ties_of_one_model_at_full_density_gives_it_back():
    assert same(methods.ties(TRUNK, EXPERTS[:1], torch.ones(1), density=1.0), EXPERTS[0])


def test_ties_trims_elects_and_averages_what_agrees():
    vectors = torch.tensor([[4.0, 1.0, -3.0, 0.5], [2.0, -5.0, 1.0, 4.0], [-1.0, -6.0, 0.2, 8.0]])
    # Half of each stays: [4 . -3 .], [. -5 . 4], [. -6 . 8]; nobody contradicts anybody.
    torch.testing.assert_close(
        methods.trim_and_elect(vectors, density=0.5).sum(0), torch.tensor([4.0, -5.5, -3.0, 6.0])
    )
    # Untrimmed, the minority is left out: 4 and 2 against -1, -5 and -6 against 1, -3 against 1 and 0.2.
    torch.testing.assert_close(
        methods.trim_and_elect(vectors, density=1.0).sum(0), torch.tensor([3.0, -5.5, -3.0, 12.5 / 3])
    )


def test_dare_gives_the_task_vector_in_expectation():
    vector, rate, draws = torch.linspace(-1, 1, 41, dtype=torch.float64)[None], 0.9, 4000
    generator = torch.Generator().manual_seed(0)
    samples = torch.stack([methods.drop_and_rescale(vector, rate, generator) for _ in range(draws)])
    error = samples.mean(0) - vector
    standard_error = vector.abs() * math.sqrt(rate / (1 - rate) / draws)
    # Of 40 values a handful may lie beyond two, and their mean square is 1 within three of its own standard errors.
    scores = (error / standard_error)[vector != 0]
    assert scores.abs().max() < 4
    assert abs(scores.mean()) < 3 / math.sqrt(40)
    assert abs(scores.square().mean() - 1) < 3 * math.sqrt(2 / 40)
    assert (samples == 0).double().mean() == pytest.approx(0.9, abs=0.02)


def test_dare_that_drops_nothing_is_task_arithmetic():
    weights = torch.tensor([0.2, 0.5, 0.3])
    dropped = methods.dare(TRUNK, EXPERTS, weights, 0.0, torch.Generator().manual_seed(0))
    assert same(dropped, methods.task_arithmetic(TRUNK, EXPERTS, weights))


def test_passthrough_takes_every_tensor_from_the_model_it_names():
    source = {name: number % 3 for number, name in enumerate(TRUNK)}
    merged = methods.passthrough(EXPERTS, source)
    for name in NAMES:
        assert torch.equal(merged[name], EXPERTS[source[name]][name])


MERGES = {
    "linear": lambda weights: methods.linear(EXPERTS, weights),
    "task_arithmetic": lambda weights: methods.task_arithmetic(TRUNK, EXPERTS, weights),
    "ties": lambda weights: methods.ties(TRUNK, EXPERTS, weights, 0.3),
    "dare": lambda weights: methods.dare(TRUNK, EXPERTS, weights, 0.5, torch.Generator().manual_seed(1)),
    "slerp": lambda weights: methods.slerp(EXPERTS[0], EXPERTS[1], weights[..., 0]),
}


@pytest.mark.parametrize("name", MERGES)
def test_many_merges_at_once_are_each_of_them(name):
    weights = torch.rand(4, 3, generator=torch.Generator().manual_seed(5))
    stacked = MERGES[name](weights)
    for k in range(4):
        for tensor, alone in MERGES[name](weights[k]).items():
            torch.testing.assert_close(stacked[tensor][k], alone, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", MERGES)
def test_tied_tensors_stay_one(name):
    merged = MERGES[name](torch.rand(3))
    assert merged["head.weight"] is merged["embedding.weight"]
    assert merged["embedding.weight"].dtype == torch.float32


def test_weights_go_to_the_layer_group_that_they_are_of():
    groups = layer_groups([*NAMES, "layers.0.attention_norm.weight", "layers.0.mlp_norm.weight"])
    assert group_names(groups) == ["embedding", "layers.0.attention", "layers.0.mlp", "head"]
    assert groups["layers.0.attention_norm.weight"] == "layers.0.attention"
    weights = torch.zeros(3, 4)
    weights[2, 1] = 1
    merged = methods.task_arithmetic(TRUNK, EXPERTS, weights_by_name(weights, layer_groups(TRUNK)))
    for name in NAMES:
        source = EXPERTS[2] if name == "layers.0.attention.query.weight" else TRUNK
        assert torch.equal(merged[name], source[name])


def test_models_of_different_architectures_are_refused():
    with pytest.raises(EsperError, match="different architectures"):
        methods.linear([TRUNK, {"w": torch.ones(2)}], torch.ones(2))

import torch
from torch import nn

from esper.kasmina import MorphogeneticModel, TransformerHost
from esper.kasmina.flops import count_flops


def test_a_multiply_add_is_two_flops():
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False),  # 36 outputs of each of 4 channels, 18 taps
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),  # 9 outputs a channel
        nn.Conv2d(4, 4, 3, padding=1, groups=4),  # 9 taps and a bias
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
        nn.Sigmoid(),
    )
    expected = 144 * 36 + 2 * 144 + 144 + 144 + 36 * (18 + 1) + 36 + 5 * (2 * 4 + 1) + 5
    assert count_flops(network, torch.zeros(1, 2, 6, 6)) == expected


def test_a_decoders_flops_are_those_of_its_layers_and_of_the_pairs_that_see_each_other():
    model = MorphogeneticModel(TransformerHost(11, 8, 2, 3, 5))
    tokens, pairs = 4, 4 * 5 // 2
    linear = 2 * 8 * 24 + 24 + 2 * 8 * 8 + 8 + 2 * 8 * 32 + 32 + 2 * 32 * 8 + 8  # of one layer and one token
    layer = tokens * (linear + 2 * 7 * 8 + 32) + pairs * 4 * 8  # two norms and a GELU; scores and sums of 8 numbers
    assert model.flops_per_sample((tokens,)) == 3 * layer + tokens * (7 * 8 + 2 * 8 * 11 + 11)
    model.germinate_seed("flex_attention", "s", "mid")
    model.slots["mid"].start_blending(total_steps=4)
    seed = tokens * (2 * 8 * 24 + 24 + 2 * 8 * 8 + 8 + 7 * 8) + pairs * 4 * 8
    assert model.flops_per_sample((tokens,)) == 3 * layer + tokens * (7 * 8 + 2 * 8 * 11 + 11) + seed


def test_counting_leaves_the_model_as_it_was():
    network = nn.Sequential(nn.BatchNorm2d(2), nn.Sequential(nn.BatchNorm2d(2)).eval())
    count_flops(network, torch.ones(1, 2, 3, 3))
    assert [module.training for module in network.modules()] == [True, True, False, False]
    assert torch.equal(network[0].running_mean, torch.zeros(2))
    assert all(not module._forward_hooks for module in network.modules())

import torch
from torch import nn

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


def test_counting_leaves_the_model_as_it_was():
    network = nn.Sequential(nn.BatchNorm2d(2), nn.Sequential(nn.BatchNorm2d(2)).eval())
    count_flops(network, torch.ones(1, 2, 3, 3))
    assert [module.training for module in network.modules()] == [True, True, False, False]
    assert torch.equal(network[0].running_mean, torch.zeros(2))
    assert all(not module._forward_hooks for module in network.modules())

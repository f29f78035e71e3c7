import torch
from torch import nn

from esper.kasmina.seeding import default_generator, weights_from


def test_weights_follow_the_generator_and_leave_the_global_stream_alone():
    before = torch.get_rng_state()
    layers = []
    for seed in (1, 1, 2):
        with weights_from(torch.Generator().manual_seed(seed)):
            layers.append(nn.Linear(3, 3))
    assert torch.equal(layers[0].weight, layers[1].weight)
    assert not torch.equal(layers[0].weight, layers[2].weight)
    assert torch.equal(torch.get_rng_state(), before)


def test_one_generator_gives_each_module_weights_of_its_own():
    generator = torch.Generator().manual_seed(1)
    layers = []
    for _ in range(2):
        with weights_from(generator):
            layers.append(nn.Linear(3, 3))
    assert not torch.equal(layers[0].weight, layers[1].weight)


def test_a_default_generator_is_fixed_by_its_names():
    draws = [torch.rand((), generator=default_generator(*names)) for names in (("a", "b"), ("a", "b"), ("a", "c"))]
    assert draws[0] == draws[1] != draws[2]

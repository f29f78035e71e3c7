"""Members of one architecture are alike, whatever they hold by identity; and what they share is named."""

import functools
import itertools
import subprocess
import sys

import pytest
import torch
from torch import nn

import esper
from esper.engine.optimizer import OptimizerConfig
from esper.engine.population import Population
from esper.errors import EngineError
from tests.engine.growing import data
from tests.engine.plain_networks import Base

HOLDS = {
    "list of parameters": lambda net: [net.stem.weight, net.head.bias],
    "list of layers": lambda net: [net.stem, net.head],
    "dict of layers": lambda net: {"stem": net.stem},
    "function": lambda net: lambda x: 2 * x,
    "function with defaults": lambda net: lambda x, scale=2.0: scale * x,
    "function of a function": lambda net: (lambda scale: lambda x: scale * x)(2.0),
    "method": lambda net: net.stem.reset_parameters,
    "partial": lambda net: functools.partial(torch.mul, other=2.0),
    "array": lambda net: torch.ones(3),
    "generator": lambda net: torch.Generator().manual_seed(3),
}


def members(*holds):
    x, _, _ = data(size=8)
    found = []
    for hold in holds:
        model = esper.grow(Base().double(), {"mid": "body"}, x[:2])
        net = model.host.module
        vars(net)["kept"] = hold(net)  # held beside the layers, as nn.LSTM holds its weights
        found.append(model)
    return found


@pytest.mark.parametrize("case", HOLDS)
def test_members_that_hold_the_same_are_alike(case):
    assert Population(members(HOLDS[case], HOLDS[case]), OptimizerConfig(), "fused").engine.kind == "fused"


@pytest.mark.parametrize(("one", "other"), list(itertools.pairwise(HOLDS)))
def test_members_that_hold_other_things_are_not_and_the_thing_is_named(one, other):
    with pytest.raises(EngineError, match=r"layer Base of member 1 is not as in member 0 \(kept\)"):
        Population(members(HOLDS[one], HOLDS[other]), OptimizerConfig(), "fused")


def test_a_function_that_does_otherwise_is_another():
    scaled = [lambda net, scale=scale: lambda x: scale * x for scale in (2.0, 3.0)]
    with pytest.raises(EngineError, match=r"\(kept\)"):
        Population(members(*scaled), OptimizerConfig(), "fused")


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


def test_a_layer_that_cannot_be_fused_is_named_for_that():
    models = [esper.grow(Reader(), {"mid": "lstm"}, torch.randn(2, 4, 8)) for _ in range(2)]
    with pytest.raises(EngineError, match=r"layer lstm \(LSTM\) cannot be fused"):
        Population(models, OptimizerConfig(), "fused")


class OnTheClass(Base):
    calls = 0

    def features(self, x):
        OnTheClass.calls += 1
        return super().features(x) * (1 + 1e-3 * (OnTheClass.calls % 3))


class NeverTheSame(Base):
    calls = 0

    def features(self, x):
        NeverTheSame.calls += 1
        return super().features(x) * (1 + 1e-3 * NeverTheSame.calls)


CALLS = [0]


class InAGlobal(Base):
    def features(self, x):
        CALLS[0] += 1
        return super().features(x) * (1 + 1e-3 * (CALLS[0] % 3))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", ["fused", "sequential", None])
@pytest.mark.parametrize(
    ("network", "name"),
    [
        (OnTheClass, r"OnTheClass\.calls"),
        (NeverTheSame, r"NeverTheSame\.calls"),
        (InAGlobal, r"CALLS \(global, of InAGlobal\.features\)"),
    ],
)
def test_what_all_members_share_is_named_with_what_mends_it(network, name, kind):
    x, y, order = data(size=8)
    models = [esper.grow(network().double(), {"mid": "body"}, x[:2]) for _ in range(3)]
    with pytest.raises(EngineError, match=rf"{name}.*keep it on the network itself"):
        Population(models, OptimizerConfig(), kind).train_epoch(x, y, order, 16)


LAYOUTS = """
import torch, warnings
from torch import nn
import esper
from esper.engine.optimizer import OptimizerConfig
from esper.engine.population import Population
torch.set_warn_always(True)
warnings.simplefilter("error")
x, y = torch.randn(32, 3, 8, 8, dtype=torch.float64), torch.arange(32) % 3
for attempt in range(3):
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 3)]
    network = nn.Sequential(*layers).double()
    network[0].weight.register_hook(lambda grad: 2 * grad)
    population = Population([esper.grow(network, {"mid": "0"}, x[:2]) for _ in range(2)], OptimizerConfig())
    population.train_epoch(x, y, torch.arange(32), 16)
"""


@pytest.mark.slow
def test_measuring_ways_to_lay_weights_out_leaves_gradients_as_their_parameters_lie():
    ran = subprocess.run([sys.executable, "-c", LAYOUTS], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-500:]

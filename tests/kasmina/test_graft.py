"""Slots in networks that esper did not ship."""

import copy

import pytest
import torch
from torch import nn

import esper
from esper.engine.optimizer import OptimizerConfig
from esper.engine.population import Population
from esper.errors import ConfigError
from esper.kasmina.slot import SlotConfig
from esper.leyline import SeedStage


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(x + self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x))))))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.layer1, self.layer2 = Residual(6), Residual(6)
        self.pool, self.flatten, self.head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.flatten(self.pool(self.layer2(self.layer1(self.stem(x))))))


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        features, _ = self.lstm(x)
        return self.head(features[:, -1])


CASES = {
    "residual": (ResNet, {"mid": "layer1", "end": "layer2"}, (12, 1, 8, 8), "conv_light", "fused"),
    "lstm": (Reader, {"mid": "lstm"}, (12, 5, 4), "mlp_small", "sequential"),
}


def build(case: str, seed: int = 0):
    torch.manual_seed(seed)
    network, slots, shape, blueprint, kind = CASES[case]
    return network(), slots, torch.randn(shape), blueprint, kind


@pytest.mark.parametrize("case", CASES)
def test_an_ungrown_network_computes_what_it_did_and_stays_as_it_was(case):
    network, slots, x, _, _ = build(case)
    before = copy.deepcopy(network.state_dict())
    model = esper.grow(network, slots, x)
    assert list(model.slots) == list(slots)
    torch.testing.assert_close(model.eval()(x), network.eval()(x), rtol=0, atol=0)
    assert network.state_dict().keys() == before.keys()
    assert not any(isinstance(m, esper.kasmina.SeedSlot) for m in network.modules())


@pytest.mark.parametrize("case", CASES)
def test_seeds_live_their_life_in_it_and_the_engine_trains_it(case):
    models = []
    for seed in range(3):
        network, slots, x, blueprint, kind = build(case, seed)
        model = esper.grow(network, slots, x, SlotConfig(blending_steps=4))
        model.germinate_seed(blueprint, f"s{seed}", "mid", "linear")
        model.slots["mid"].state.transition(SeedStage.TRAINING)
        models.append(model)
    y = torch.arange(12) % 3
    population = Population(models, OptimizerConfig(learning_rate=0.05), kind)
    assert population.engine.kind == kind
    order = torch.arange(12)
    first = population.train_epoch(x, y, order, 6).loss
    for model in models:
        model.slots["mid"].start_blending(total_steps=4)
    for _ in range(20):
        last = population.train_epoch(x, y, order, 6).loss
    assert all(model.slots["mid"].alpha == 1.0 for model in models)
    assert (last < 0.8 * first).all()


def test_fused_and_plain_training_agree_on_a_residual_network():
    results = []
    for kind in ("fused", "sequential"):
        models = []
        for seed in range(2):
            network, slots, x, blueprint, _ = build("residual", seed)
            models.append(esper.grow(network.double(), slots, x.double()))
        models[0].germinate_seed(blueprint, "s", "end", "linear")
        models[0].slots["end"].state.transition(SeedStage.TRAINING)
        population = Population(models, OptimizerConfig(learning_rate=0.05), kind)
        results.append(population.train_epoch(x.double(), torch.arange(12) % 3, torch.arange(12), 6).loss)
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-12)


class TwoPasses(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.unused = nn.Conv2d(1, 1, 1)
        self.flatten = nn.Flatten()

    def forward(self, x):
        return self.flatten(self.conv(self.conv(x)))


@pytest.mark.parametrize(
    ("network", "slots", "shape", "reason"),
    [
        (ResNet, {"mid": "layer9"}, (2, 1, 8, 8), "no such submodule; it has stem, layer1"),
        (ResNet, {"mid": "head"}, (2, 1, 8, 8), r"its output is \[2, 3\]"),
        (ResNet, {"a": "layer1", "b": "layer1"}, (2, 1, 8, 8), "a submodule of its own"),
        (ResNet, {}, (2, 1, 8, 8), "at least one submodule"),
        (ResNet, {"mid": "layer1"}, (2, 5, 8, 8), "fails on the example"),
        (TwoPasses, {"mid": "conv"}, (2, 1, 8, 8), "more than once a pass"),
        (TwoPasses, {"mid": "unused"}, (2, 1, 8, 8), "never calls it"),
    ],
)
def test_what_cannot_be_grown_is_refused_with_the_reason(network, slots, shape, reason):
    with pytest.raises(ConfigError, match=reason):
        esper.grow(network(), slots, torch.randn(shape))


class Fails(nn.Linear):
    def forward(self, x):
        return {}["missing"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((3, {"mid": "0"}, torch.ones(1, 2)), "expected an nn.Module with parameters, and got int"),
        ((nn.Identity(), {"mid": "0"}, torch.ones(1, 2)), "expected an nn.Module with parameters, and got Identity"),
        (
            (nn.Linear(2, 2), ["0"], torch.ones(1, 2)),
            r"slots: expected names and submodules, such as \{'mid': 'layer2'\}",
        ),
        ((nn.Linear(2, 2), {"mid": "0"}, [1.0]), "example: expected an input as a tensor"),
        ((nn.Sequential(Fails(2, 2)), {"mid": "0"}, torch.ones(1, 2)), "the network fails on the example .*missing"),
    ],
)
def test_what_is_no_network_or_no_place_is_refused_in_words(arguments, reason):
    with pytest.raises(ConfigError, match=reason):
        esper.grow(*arguments)

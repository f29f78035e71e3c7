"""What a population is given is judged before anything changes, in one line that says what was expected."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import esper
from esper.engine.choice import choose_engine
from esper.engine.optimizer import OptimizerConfig
from esper.engine.population import Population
from esper.errors import ConfigError, EngineError
from esper.kasmina import CNNHost, MorphogeneticModel

X, Y, ORDER = torch.randn(12, 1, 8, 8), torch.arange(12) % 4, torch.arange(12)


class Net(nn.Module):
    def __init__(self, output=None, classes=4):
        super().__init__()
        self.stem, self.body = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.pool, self.flat, self.head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes)
        self.output = output

    def forward(self, x):
        logits = self.head(self.flat(self.pool(self.body(self.stem(x)))))
        return logits if self.output is None else self.output(logits)


def grown(**settings):
    return esper.grow(Net(**settings), {"mid": "body"}, X[:2])


MODEL, CONFIG = grown(), OptimizerConfig()


@pytest.mark.parametrize(
    ("models", "optimizer", "reason"),
    [
        ([], CONFIG, "at least one model"),
        (iter([]), CONFIG, "at least one model"),
        (MODEL, CONFIG, r"such as \[model\], and got MorphogeneticModel"),
        (None, CONFIG, "and got NoneType"),
        ([Net()], CONFIG, r"member 0 is Net: members come from esper\.grow\("),
        ([MODEL, Net()], CONFIG, "member 1 is Net"),
        ([MODEL, grown().double()], CONFIG, "all members of a population have one architecture"),
        ([MODEL, grown().to("meta")], CONFIG, "member 1 is on meta, and member 0 on cpu: expected all on one device"),
        ([MODEL], None, "optimizer: expected an OptimizerConfig.* got NoneType"),
        ([MODEL], "sgd", "optimizer: expected an OptimizerConfig.* got str"),
        ([MODEL], torch.optim.SGD(MODEL.parameters()), "optimizer: expected an OptimizerConfig.* got SGD"),
        ([MODEL], [], "optimizer: 0 for 1 members"),
        ([MODEL], [CONFIG] * 2, "optimizer: 2 for 1 members"),
    ],
)
def test_members_and_their_optimizers_are_what_they_are_said_to_be(models, optimizer, reason):
    with pytest.raises(EngineError, match=reason):
        Population(models, optimizer)
    if models and "architecture" not in reason:
        with pytest.raises(EngineError, match=reason):
            choose_engine(models, optimizer, X, Y)


def test_any_iterable_of_members_will_do():
    assert len(Population((grown() for _ in range(2)), (CONFIG for _ in range(2)))) == 2


EXAMPLES = {
    "fewer targets": ((X, Y[:5]), r"x is \[12, 1, 8, 8\] and y \[5\]"),
    "no examples": ((X[:0], Y[:0]), "at least one"),
    "numpy": ((X.numpy(), Y), "x: expected a tensor .* got ndarray"),
    "a list": ((X, Y.tolist()), "y: expected a tensor .* got list"),
    "nothing": ((None, Y), "x: expected a tensor .* got NoneType"),
    "elsewhere": ((X.to("meta"), Y), r"x is on meta, and the members are on cpu"),
    "real targets": ((X, Y.float()), "targets: expected the numbers of classes.* torch.float32"),
    "small integers": ((X, Y.int()), "targets: expected the numbers of classes.* torch.int32"),
    "truth values": ((X, Y > 1), "targets: expected the numbers of classes.* torch.bool"),
    "negative": ((X, Y - 1), "targets: expected the numbers of classes.* negative"),
    "target of two": ((X, Y[:, None]), r"gives \[\d+, 4\] for targets \[\d+, 1\]"),
    "double": ((X.double(), Y), "the network fails on .*torch.float64"),
    "channels": ((X.expand(-1, 3, -1, -1), Y), "the network fails on .*3, 8, 8"),
    "more classes": ((X, Y + 6), "gives 4 outputs, and the task has 10 classes"),
}


@pytest.mark.sampled(14)
@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("kind", ["fused", "sequential", None])
@pytest.mark.parametrize("case", EXAMPLES)
def test_examples_are_judged_alike_in_training_and_evaluation(case, kind, settled):
    (x, y), reason = EXAMPLES[case]
    population = Population([grown()], CONFIG, kind)
    if settled:
        population.train_epoch(X, Y, ORDER, 6)
    before = copy.deepcopy(population.models[0].host.module.state_dict())
    for call in (lambda: population.train_epoch(x, y, ORDER, 6), lambda: population.evaluate(x, y)):
        with pytest.raises(EngineError, match=reason) as refused:
            call()
        assert len(str(refused.value).splitlines()) == 1
    after = population.models[0].host.module.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"order": ORDER.tolist()}, "order: expected a tensor"),
        ({"order": None}, "order: expected a tensor"),
        ({"order": ORDER + 1}, "order: expected whole numbers from 0 to 11"),
        ({"order": ORDER.float()}, "order: expected whole numbers"),
        ({"order": ORDER > 1}, "order: expected whole numbers"),
        ({"order": ORDER[None]}, r"order: expected \[N\], and got \[1, 12\]"),
        ({"order": ORDER[:0]}, "order: 0 examples"),
        *(({"batch_size": size}, "batch_size=.*a whole number, 1 or more") for size in (0, -1, 3.5, True, "4", None)),
        ({"rate_factors": [1.0, 1.0]}, "rate_factors: expected 1 numbers"),
        ({"rate_factors": [float("nan")]}, "rate_factors: expected 1 numbers"),
        ({"seeds": [1, 2]}, "seeds: expected 1 whole numbers"),
        ({"seeds": [0.5]}, "seeds: expected 1 whole numbers"),
        ({"x": X[None], "y": Y[None], "order": ORDER[None], "source": torch.tensor([1])}, "source: expected 1 whole"),
        ({"x": X[None], "y": Y[None], "order": ORDER[None], "source": [0]}, "source: expected a tensor"),
    ],
)
def test_an_epoch_is_made_of_what_it_says(arguments, reason):
    population = Population([grown()], CONFIG, "sequential")
    with pytest.raises(EngineError, match=reason):
        population.train_epoch(**{"x": X, "y": Y, "order": ORDER, "batch_size": 6} | arguments)
    population.train_epoch(X, Y, ORDER.int(), np.int64(6))


@pytest.mark.parametrize(
    ("pair", "reason"),
    [((1, "mid"), "no member 1"), ((-1, "mid"), "no member -1"), ((0, "mdi"), "no slot 'mdi'.*did you mean 'mid'")],
)
def test_a_seed_that_is_asked_about_has_a_place(pair, reason):
    with pytest.raises(EngineError, match=reason):
        Population([grown()], CONFIG).evaluate(X, Y, [pair])


@pytest.mark.parametrize("kind", ["sequential", None])
@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (lambda out: (out, out), "gives a tuple .*expected one tensor of logits"),
        (lambda out: {"logits": out}, "gives a dict .*expected one tensor of logits"),
        (lambda out: out.argmax(1), r"gives \[\d+\] for targets \[\d+\]"),
        (lambda out: out.sum(), r"gives \[\] for targets"),
        (lambda out: out[:, None].expand(-1, 3, -1), r"gives \[\d+, 3, 4\] for targets \[\d+\]"),
        (lambda out: out.round().long(), r"gives torch.int64; expected logits .* in floating point"),
    ],
)
def test_what_a_network_gives_is_named_for_what_it_is(output, reason, kind):
    population = Population([grown(output=output)], CONFIG, kind)
    for call in (lambda: population.train_epoch(X, Y, ORDER, 6), lambda: population.evaluate(X, Y)):
        with pytest.raises(EngineError, match=reason):
            call()


@pytest.mark.parametrize("kind", ["fused", "sequential", None])
def test_a_host_with_too_few_outputs_is_refused_too(kind):
    population = Population([MorphogeneticModel(CNNHost(num_classes=3, in_channels=1))], CONFIG, kind)
    with pytest.raises(EngineError, match="gives 3 outputs, and the task has 4 classes"):
        population.train_epoch(X, Y, ORDER, 6)


@pytest.mark.parametrize("example", [X[:0], torch.tensor(1.0)])
def test_an_example_is_one_at_least(example):
    with pytest.raises(ConfigError, match="example: expected one example or more"):
        esper.grow(Net(), {"mid": "body"}, example)

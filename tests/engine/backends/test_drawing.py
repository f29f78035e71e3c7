"""Layers that draw, such as Dropout: reproducible, alike in twins, exact when resumed, and never fused."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper.engine.choice import choose_engine
from esper.engine.governor import Governor, GovernorConfig
from esper.engine.growth import Growth
from esper.engine.optimizer import OptimizerConfig
from esper.engine.population import Population
from esper.errors import EngineError
from esper.kasmina import MorphogeneticModel
from esper.kasmina.graft import grow
from esper.kasmina.slot import QualityGates
from esper.leyline import WAIT, Action, Operation
from esper.tasks.task import Task
from tests.engine.growing import data, stepped

PLANT = Action(Operation.GERMINATE, "mid", "norm", "linear", "test")


class Draws(nn.Module):
    """Draws in training through Python's control flow, or a function of torch, or in evaluation too."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "always":
            return x * torch.rand(())
        if self.how == "chance":
            return x if torch.rand(()) < 0.5 else x + x
        if self.how in ("python", "numpy"):
            return x * (random.random() if self.how == "python" else np.random.rand())
        if self.how == "noise":
            return x + torch.randn_like(x) if self.training else x
        return F.dropout(x, 0.5, self.training)


def network(layer: nn.Module) -> MorphogeneticModel:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3, padding=1), layer, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)]
    return grow(nn.Sequential(*layers).double(), {"mid": "0"}, torch.zeros(1, 2, 9, 9, dtype=torch.float64))


def growth(seed: int = 3, layer: nn.Module | None = None) -> Growth:
    x, y, _ = data(count=70)
    models = [network(layer or nn.Dropout(0.5)) for _ in range(3)]
    return Growth(
        Population(models, OptimizerConfig(learning_rate=0.05), "sequential"),
        Task("toy", 5, (2, 9, 9), x[:40], y[:40], x[40:60], y[40:60], x[60:], y[60:]),
        QualityGates(),
        Governor(GovernorConfig()),
        grown=2,
        epochs=9,
        batch_size=16,
        blueprints=["norm"],
        seed=seed,
    )


def losses(grown: Growth, epochs: int, plant: bool = False) -> list[list[float]]:
    told = []
    for epoch in range(epochs):
        reports, _ = stepped(grown, [WAIT, PLANT if plant and epoch == 0 else WAIT, WAIT])
        told.append([report.train_loss for report in reports])
    return told


@pytest.mark.sampled(2)
@pytest.mark.parametrize("layer", [nn.Dropout(0.5), Draws("numpy"), Draws("python"), Draws("noise")], ids=str)
def test_what_a_run_draws_is_its_seed_s_alone_and_leaves_the_streams(layer):
    def streams():
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()

    def reseed(seed):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)

    reseed(1)
    first = losses(growth(layer=layer), 3)
    reseed(2)
    grown = growth(layer=layer)
    before = streams()
    assert losses(grown, 3) == first
    assert before == streams()
    assert losses(growth(seed=4, layer=layer), 3) != first


def test_members_that_start_alike_draw_alike_and_every_epoch_anew():
    grown = growth()
    assert all(len(set(epoch)) == 1 for epoch in losses(grown, 3))
    still = OptimizerConfig(learning_rate=0.0, weight_decay=0.0)
    trained = Population([network(nn.Dropout(0.5)) for _ in range(2)], still, "sequential")
    x, y, order = data()
    first, again, other = (trained.train_epoch(x, y, order, 16, seeds=[seed] * 2).loss for seed in (0, 0, 1))
    assert torch.equal(first, again) and first[0] == first[1] != other[0]
    assert len({loss.item() for _ in range(2) for loss in trained.train_epoch(x, y, order, 16).loss}) == 4


@pytest.mark.slow
def test_measuring_what_draws_leaves_torch_s_stream_alone():
    body, (x, y, _) = network(nn.Dropout(0.5)), data()
    before = torch.get_rng_state()
    torch.set_num_threads(2)  # so that there is a choice to be measured
    _, reason = choose_engine([body], OptimizerConfig(), x[:8], y[:8], kind="sequential")
    assert "ms a step" in reason and torch.equal(before, torch.get_rng_state())


def test_a_resumed_run_with_dropout_is_exact():
    grown = growth()
    losses(grown, 2, plant=True)
    tensors, plain = grown.state()
    rest = losses(grown, 3)
    torch.manual_seed(77)
    again = growth()
    again.load_state(tensors, plain)
    assert losses(again, 3) == rest


def test_what_draws_in_evaluation_too_gives_the_same_figures_each_time():
    trained = Population([network(Draws("always")) for _ in range(2)], OptimizerConfig(), "sequential")
    x, y, _ = data()
    first, second = (trained.evaluate(x, y)[0].loss for _ in range(2))
    assert torch.equal(first, second) and first[0] == first[1]


@pytest.mark.parametrize("how", ["layer", "function", "always", "noise", "chance", "python", "numpy"])
@pytest.mark.parametrize("training", [True, False])
def test_what_draws_is_never_fused(how, training):
    body = network(nn.Dropout(0.5) if how == "layer" else Draws(how)).train(training)
    with pytest.raises(EngineError):
        Population([body], OptimizerConfig(), "fused")

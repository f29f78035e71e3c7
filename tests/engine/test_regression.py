"""Numbers as targets: trained as a plain loop trains them, and scored by R-squared, whatever trains them."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import esper
from esper.engine.fusion.sequence_layout import SequenceLayout
from esper.engine.governor import Governor, GovernorConfig
from esper.engine.growth import Growth
from esper.engine.optimizer import OptimizerConfig
from esper.engine.population import Population
from esper.errors import EngineError
from esper.kasmina.slot import GateConfig, QualityGates
from esper.leyline import WAIT, Action, Operation, SeedMetrics, SeedStage
from esper.tasks.task import Task
from tests.engine.growing import data, model, plant, reported, scored, state, stepped
from tests.engine.plain_networks import WIDTH, Base
from tests.engine.test_population import BATCH, OPTIMIZERS

LOSSES = {"mse": F.mse_loss, "huber": F.huber_loss}


def targets(count, width, seed=0):
    """Some far off, so that Huber's loss is linear there."""
    return 2 * torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def r_squared(outputs, y):
    left = (outputs - y).square().sum(0) / (y - y.mean(0)).square().sum(0)
    return max(-100.0, 100 * float(1 - left.mean()))


def network(seed, width):
    torch.manual_seed(seed)
    return Base(head=nn.Linear(WIDTH, width)).double()


@pytest.mark.sampled(8)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["fused", "sequential", None])
@pytest.mark.parametrize(("loss", "width"), [("mse", 1), ("mse", 3), ("huber", 1), ("huber", 3)])
def test_an_epoch_is_a_plain_loops(loss, width, kind, optimizer):
    config, members = OPTIMIZERS[optimizer], range(2)
    (x, _, order), y = data(40, size=8), targets(40, width)
    expected = [network(seed, width) for seed in members]
    population = Population(
        [esper.grow(network(e, width), {"mid": "body"}, x[:2]) for e in members], config, kind, loss=loss
    )
    scores = population.train_epoch(x, y.squeeze(1) if width == 1 else y, order, BATCH)
    for member, plain in enumerate(expected):
        settings = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
        if config.name == "sgd":
            own = torch.optim.SGD(plain.parameters(), momentum=config.momentum, **settings)
        else:
            own = torch.optim.AdamW(plain.parameters(), betas=config.betas, eps=config.eps, **settings)
        total, outputs = 0.0, torch.empty_like(y)
        for batch in order.split(BATCH):
            own.zero_grad()
            outputs[batch] = (given := plain(x[batch])).detach()
            found = LOSSES[loss](given, y[batch])
            found.backward()
            if config.clip_norm is not None:
                nn.utils.clip_grad_norm_(plain.parameters(), config.clip_norm)
            own.step()
            total += found.item() * len(batch) / len(x)
        assert float(scores.loss[member]) == pytest.approx(total, rel=1e-9)
        assert float(scores.score[member]) == pytest.approx(r_squared(outputs, y), abs=1e-7)
        torch.testing.assert_close(scores.rmse[member], (outputs - y).square().mean(0).sqrt(), rtol=1e-9, atol=0)
        trained = population.models[member].host.module.state_dict()
        for name, tensor in plain.state_dict().items():
            got = trained[name.replace("body.", "body.inner.")] if name not in trained else trained[name]
            torch.testing.assert_close(got, tensor, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("loss", LOSSES)
def test_grown_networks_train_and_are_measured_alike_by_every_engine(loss):
    (x, _, order), y = data(), targets(37, 5)
    found = {}
    for kind in ("fused", "sequential"):
        bodies = [model(seed) for seed in range(4)]
        plant(bodies[0], "early", "conv_light", "gated", SeedStage.BLENDING, 0)
        plant(bodies[1], "mid", "norm", "linear", SeedStage.PROBATIONARY, 1)
        plant(bodies[2], "mid", "attention", "sigmoid", SeedStage.BLENDING, 2)
        population = Population(bodies, OptimizerConfig(learning_rate=0.02), kind, loss=loss)
        trained = population.train_epoch(x, y, order, 16)
        live = [(0, "early"), (1, "mid"), (2, "mid")]
        scores, without, _ = population.evaluate(x, y, live)
        found[kind] = [trained.loss, trained.score, scores.loss, scores.score, scores.rmse]
        found[kind].append(torch.tensor([without[pair] for pair in live], dtype=torch.float64))
        found[kind] += state(bodies).values()
        assert all(without[pair][1] != float(scores.score[pair[0]]) for pair in live)
    for fused, sequential in zip(found["fused"], found["sequential"], strict=True):
        torch.testing.assert_close(fused, sequential, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["fused", "sequential"])
def test_members_of_several_sets_are_scored_on_their_own(kind):
    x, _, _ = data(20)
    sets = torch.stack([targets(20, 5), 10 + 3 * targets(20, 5, seed=1)])
    population = Population([model(seed) for seed in range(3)], OptimizerConfig(), kind, loss="mse")
    together, _, _ = population.evaluate(torch.stack([x, x]), sets, source=torch.tensor([1, 0, 1]))
    for member, number in enumerate([1, 0, 1]):
        alone, _, _ = population.evaluate(x, sets[number])
        torch.testing.assert_close(together.score[member], alone.score[member])


def test_the_score_of_a_member_that_diverged_is_the_least():
    (x, _, _), y = data(20), targets(20, 5)
    bodies = [model(0), model(1)]
    with torch.no_grad():
        bodies[0].host.head.bias.fill_(math.nan)
        bodies[1].host.head.bias.fill_(1e6)
    scores, _, _ = Population(bodies, OptimizerConfig(), "sequential", loss="mse").evaluate(x, y)
    assert scores.score.tolist() == [-100.0, -100.0]


def test_targets_of_sequences_that_are_pooled():
    outputs, y = targets(3 * 7, 2).view(3, 7, 2), targets(7, 2, seed=1)
    losses, squares = SequenceLayout().losses(outputs, y.unsqueeze(0), "huber")
    for member in range(3):
        assert float(losses[member]) == pytest.approx(float(F.huber_loss(outputs[member], y)))
        torch.testing.assert_close(squares[member], (outputs[member] - y).square().sum(0))


REFUSED = {
    "labels": (lambda y: torch.arange(20), r"targets under loss=mse: expected finite floating point .* torch.int64"),
    "nan": (lambda y: y * math.nan, r"float64 \[20, 5\], not all finite"),
    "too many": (lambda y: y[:, :3], r"the network gives \[20, 5\] for targets \[20, 3\]; expected outputs \[20, 3\]"),
    "too deep": (lambda y: y[:, None], r"targets under loss=mse"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_targets_that_do_not_fit_are_told(case):
    change, reason = REFUSED[case]
    x, _, _ = data(20)
    with pytest.raises(EngineError, match=reason):
        Population([model(0)], OptimizerConfig(), "sequential", loss="mse").evaluate(x, change(targets(20, 5)))


def test_an_unknown_loss_is_told():
    with pytest.raises(EngineError, match="loss 'l1': must be one of cross_entropy, mse, huber"):
        Population([model(0)], OptimizerConfig(), loss="l1")


def test_a_grown_run_of_numbers_is_judged_by_its_score():
    (x, _, _), y = data(count=90), 50 + 7 * targets(90, 5)
    task = Task("numbers", 5, (2, 9, 9), x[:50], y[:50], x[50:70], y[50:70], x[70:], y[70:], loss="huber")
    easy = GateConfig(min_training_improvement=-200.0, min_gradient_ratio=0.0, min_contribution=-200.0)
    population = Population(
        [model(0), model(1), model(0)], OptimizerConfig(learning_rate=0.02), "fused", loss=task.loss
    )
    governor = Governor(GovernorConfig(collapse_points=20.0))
    settings = {"grown": 2, "epochs": 8, "batch_size": 16, "blueprints": ("conv_light", "norm"), "seed": 3}
    growth = Growth(population, task, QualityGates(easy), governor, **settings)
    first = reported(growth)
    asked = [Action(Operation.GERMINATE, "early", "conv_light", "linear", "test"), WAIT, WAIT]
    stepped(growth, asked)
    stepped(growth, [WAIT] * 3)
    reports, _ = stepped(growth, [Action(Operation.ADVANCE, "early"), WAIT, WAIT])
    outputs = population.models[1].host.eval()(task.val_x).detach()
    assert reports[1].val_accuracy == pytest.approx(r_squared(outputs, task.val_y), abs=1e-6)
    errors = (outputs * task.target_std + task.target_mean - y[50:70]).square().mean(0).sqrt()
    assert reports[1].val_rmse == pytest.approx(float(errors.mean()))
    assert all(report.best_val_accuracy == report.val_accuracy < 0 for report in first)
    assert all(report.best_val_accuracy >= report.val_accuracy for report in reports)
    assert not any(report.rolled_back for report in reports)  # a score below 0 at the start is no collapse
    blending = reports[0].slots["early"]
    assert blending.contribution is not None and blending.contribution != 0
    assert scored(growth).rmse.shape == (3, 5)


def test_a_seeds_best_score_may_be_below_zero():
    metrics = SeedMetrics()
    for score in (-60.0, -20.0, -30.0):
        metrics.record_accuracy(score)
    assert (metrics.best_val_accuracy, metrics.improvement_since_stage_start) == (-20.0, 30.0)

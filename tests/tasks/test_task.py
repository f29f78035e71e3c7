"""What a task makes of targets that are numbers."""

import math

import pytest
import torch

from esper.errors import TaskError
from esper.leyline import ACCURACY, R_SQUARED
from esper.tasks.task import Task

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(30, 1, 4, 4, generator=GENERATOR)
Y = 100 + 5 * torch.randn(30, 2, generator=GENERATOR)


def task(y=Y, outputs=2, **given):
    given = {"loss": "mse"} | given
    return Task("numbers", outputs, (1, 4, 4), X[:20], y[:20], X[20:25], y[20:25], X[25:], y[25:], **given)


@pytest.mark.parametrize("form", ["[N, 2]", "[N]", "whole numbers"])
def test_targets_are_standardised_by_the_training_split(form):
    y = {"[N, 2]": Y, "[N]": Y[:, 0], "whole numbers": Y.long()}[form]
    made, wide = task(y, 1 if form == "[N]" else 2), y.double().view(30, -1)
    torch.testing.assert_close(made.target_mean, wide[:20].mean(0))
    torch.testing.assert_close(made.train_y.double().mean(0), torch.zeros(wide.shape[1]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(made.train_y.square().mean(0), torch.ones(wide.shape[1]))
    for given, held in ((wide[20:25], made.val_y), (wide[25:], made.test_y)):
        assert held.dtype is torch.float32 and held.shape == given.shape
        torch.testing.assert_close(held.double() * made.target_std + made.target_mean, given, rtol=1e-5, atol=1e-4)
    assert made.is_regression and made.score is R_SQUARED


def test_what_is_drawn_anew_is_standardised_as_well():
    made = task(draw=lambda generator: (X[:20], Y[:20]))
    _, y = made.epoch_data(1, GENERATOR)
    assert torch.equal(y, made.train_y)


def test_errors_are_in_the_targets_own_unit():
    made = task()
    assert made.target_errors(torch.tensor([[1.0, 3.0]])) == pytest.approx(
        [float(made.target_std @ torch.tensor([0.5, 1.5]).double())]
    )
    classes = task(torch.arange(30) % 2, loss="cross_entropy")
    assert all(math.isnan(error) for error in classes.target_errors(torch.empty(2, 0)))
    assert classes.score is ACCURACY and not len(classes.target_std)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda y: y[:, :1], r"train split's targets are \[20, 1\]; expected finite numbers \[N, 2\]"),
        (lambda y: y.index_fill(0, torch.tensor([22]), math.inf), r"the val split's targets are \[5, 2\]"),
        (lambda y: y * torch.tensor([1.0, 0.0]), "target 1 is the same in all 20 examples of the train split"),
        (lambda y: torch.cat([y[:25], y[:1].expand(5, 2)]), "target 0 is the same in all 5 examples of the test split"),
    ],
)
def test_targets_that_cannot_be_learned_are_told(change, reason):
    with pytest.raises(TaskError, match=reason):
        task(change(Y))

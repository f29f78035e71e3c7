"""Scores of members: what minibatches add up to."""

from dataclasses import dataclass

import torch
from torch import Tensor

from esper.engine.optimizer import accurate
from esper.leyline import LEAST_SCORE
from esper.tasks import Task


@dataclass(slots=True)
class Scores:
    """loss [M]; score [M] in percent: accuracy, or of a regression 100 x R-squared; rmse [M, K], of classes [M, 0].

    R-squared is the mean over targets of 1 - (squared errors / squared deviations from the targets' mean), both summed
    over the examples. What is below -100, or not a number, is -100: a member that diverged has a score, too. rmse is in
    the unit in which the population was given its targets.
    """

    loss: Tensor
    score: Tensor
    rmse: Tensor


class Totals:
    """Sums over minibatches of a pass over all targets y [J, N, ...].

    Args: rows: how many networks; source [rows]: which of the J sets each of them sees, None where there is one.
    """

    def __init__(self, rows: int, y: Tensor, dtype: torch.dtype, source: Tensor | None = None) -> None:
        self.y, self.source = y, source
        self.loss = torch.zeros(rows, dtype=accurate(dtype), device=y.device)
        self.hits = (
            torch.zeros(rows, y.shape[-1], dtype=accurate(dtype), device=y.device)
            if y.is_floating_point()
            else torch.zeros(rows, dtype=torch.int64, device=y.device)
        )

    def add(self, losses: Tensor, hits: Tensor, y: Tensor) -> None:
        """A minibatch of targets y [J, B, ...]: what `Engine.losses` says of it."""
        self.loss += losses * y[0].numel()
        self.hits += hits

    def scores(self) -> Scores:
        """What they come to."""
        count = self.y[0].numel()
        if not self.y.is_floating_point():
            return Scores(self.loss / count, 100.0 * self.hits / count, self.loss.new_zeros(len(self.loss), 0))
        y = self.y.to(self.hits.dtype)
        spread = (y - y.mean(1, keepdim=True)).square().sum(1)  # [J, K]
        spread = (spread if self.source is None else spread[self.source]).clamp_min(torch.finfo(y.dtype).tiny)
        score = 100.0 * (1.0 - (self.hits / spread).mean(1))
        score = score.nan_to_num(LEAST_SCORE).clamp_min(LEAST_SCORE)
        return Scores(self.loss / count, score, (self.hits / y.shape[1]).sqrt())


def test_figures(task: Task, scores: Scores) -> dict[str, list[float]]:
    """What members came to on the test split: name -> a value a member."""
    found = {f"test_{task.score.name}": scores.score.tolist()}
    if task.is_regression:
        found["test_rmse"] = task.target_errors(scores.rmse)
    if task.is_text:
        found["test_bits_per_byte"] = task.bits_per_byte(scores.loss)
    return found

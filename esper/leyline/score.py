"""Scores: what a member is judged by, in percent; more is better, whatever the loss."""

from collections.abc import Container
from dataclasses import dataclass

CROSS_ENTROPY, MSE, HUBER = LOSSES = ("cross_entropy", "mse", "huber")
LEAST_SCORE, MOST_SCORE = -100.0, 100.0


@dataclass(frozen=True, slots=True)
class ScoreKind:
    """name: in files, "val_NAME" and "test_NAME"; title: for people; least: what it can be, in percent."""

    name: str
    title: str
    least: float

    @property
    def within(self) -> tuple[float, float]:
        """The least and the most that it can be, in percent."""
        return self.least, MOST_SCORE


ACCURACY = ScoreKind("accuracy", "accuracy", 0.0)
R_SQUARED = ScoreKind("r2", "R-squared", LEAST_SCORE)
SCORE_KINDS = (ACCURACY, R_SQUARED)


def score_kind(loss: str) -> ScoreKind:
    """What members that train on this loss are judged by."""
    return ACCURACY if loss == CROSS_ENTROPY else R_SQUARED


def recorded_kind(names: Container[str]) -> ScoreKind:
    """What those were judged by that a record has these figures of."""
    return R_SQUARED if "val_r2" in names or "test_r2" in names else ACCURACY

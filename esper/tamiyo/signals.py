"""How one member's training goes: trends and plateaus out of its epoch reports."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from esper.errors import FormatError
from esper.files import built
from esper.leyline import EpochReport


@dataclass(slots=True)
class TrainingSignals:
    """One member's course so far. Accuracies of validation (of a regression, scores) in percent, losses in nats.

    accuracy_delta, loss_delta: change over the last epoch. smoothed_improvement: exponential mean of accuracy_delta, in
    points an epoch. plateau_epochs: epochs since progress was last made, which was at progress_accuracy. Histories:
    newest last.
    """

    epoch: int = 0
    accuracy_delta: float = 0.0
    loss_delta: float = 0.0
    smoothed_improvement: float = 0.0
    plateau_epochs: int = 0
    progress_accuracy: float = 0.0
    best_val_accuracy: float = 0.0
    best_val_loss: float | None = None
    accuracy_history: list[float] = field(default_factory=list)
    loss_history: list[float] = field(default_factory=list)


class SignalTracker:
    """Follows one member, one report an epoch.

    Args:
        plateau_threshold: points of accuracy to be gained, over whatever time, that count as progress.
        smoothing: weight of the newest change in the smoothed improvement, in (0, 1].
        history_length: epochs kept in the histories.
    """

    def __init__(self, plateau_threshold: float = 0.5, smoothing: float = 0.3, history_length: int = 5) -> None:
        self.plateau_threshold = plateau_threshold
        self.smoothing = smoothing
        self.history_length = history_length
        self.signals = TrainingSignals()

    def update(self, report: EpochReport) -> TrainingSignals:
        """Take in an epoch; one whose figures are not finite counts as an epoch without progress."""
        signals = self.signals
        signals.epoch = report.epoch
        signals.plateau_epochs += 1
        if not (math.isfinite(report.val_accuracy) and math.isfinite(report.val_loss)):
            return signals
        if signals.accuracy_history:
            signals.accuracy_delta = report.val_accuracy - signals.accuracy_history[-1]
            signals.loss_delta = report.val_loss - signals.loss_history[-1]
            signals.smoothed_improvement += self.smoothing * (signals.accuracy_delta - signals.smoothed_improvement)
        is_first = not signals.accuracy_history
        if is_first or report.val_accuracy >= signals.progress_accuracy + self.plateau_threshold:
            signals.plateau_epochs = 0
            signals.progress_accuracy = report.val_accuracy
        best = report.val_accuracy if is_first else signals.best_val_accuracy
        signals.best_val_accuracy = max(best, report.val_accuracy)
        best_loss = signals.best_val_loss
        signals.best_val_loss = report.val_loss if best_loss is None else min(best_loss, report.val_loss)
        signals.accuracy_history = [*signals.accuracy_history, report.val_accuracy][-self.history_length :]
        signals.loss_history = [*signals.loss_history, report.val_loss][-self.history_length :]
        return signals

    def state_dict(self) -> dict[str, Any]:
        """The course so far, as plain JSON values."""
        return asdict(self.signals)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken. Raises FormatError where this is no such state."""
        signals = built(TrainingSignals, state)
        if len(signals.accuracy_history) != len(signals.loss_history):
            raise FormatError("accuracy_history and loss_history are of different epochs")
        self.signals = signals

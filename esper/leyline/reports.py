"""What is known of seeds and members at the end of an epoch."""

import math
from dataclasses import dataclass, field

from esper.leyline.actions import WAIT, Action
from esper.leyline.stages import SeedStage


@dataclass(slots=True)
class SeedMetrics:
    """What a seed has done so far. Accuracies and improvements are in percent (points); every field is assignable.

    Of a regression an accuracy is the score that takes its place: R-squared in percent (see `esper.leyline.score`).
    """

    epochs_total: int = 0
    epochs_in_current_stage: int = 0
    initial_val_accuracy: float = 0.0
    current_val_accuracy: float = 0.0
    best_val_accuracy: float = 0.0
    accuracy_at_stage_start: float = 0.0
    improvement_since_stage_start: float = 0.0
    counterfactual_contribution: float | None = None
    isolation_violations: int = 0
    blending_delta: float | None = None
    seed_gradient_norm_ratio: float = 0.0
    parameter_count: int = 0

    def record_accuracy(self, percent: float) -> None:
        """Count one epoch that ended at this validation accuracy (percent)."""
        if self.epochs_total == 0:
            self.initial_val_accuracy = percent
            self.best_val_accuracy = self.accuracy_at_stage_start = percent
        self.epochs_total += 1
        self.epochs_in_current_stage += 1
        self.current_val_accuracy = percent
        self.best_val_accuracy = max(self.best_val_accuracy, percent)
        self.improvement_since_stage_start = percent - self.accuracy_at_stage_start

    def start_stage(self) -> None:
        """Count improvement and epochs anew from here on."""
        self.epochs_in_current_stage = 0
        self.accuracy_at_stage_start = self.current_val_accuracy
        self.improvement_since_stage_start = 0.0


@dataclass(slots=True)
class SeedStateReport:
    """One slot of one member, at the end of an epoch (a dormant slot has no seed_id)."""

    slot_id: str
    stage: SeedStage = SeedStage.DORMANT
    seed_id: str = ""
    blueprint_id: str = ""
    blend_algorithm_id: str = ""
    alpha: float = 0.0
    epochs_in_stage: int = 0
    epochs_total: int = 0
    improvement: float = 0.0  # points of validation accuracy since the stage began
    contribution: float | None = None  # points of validation accuracy with the seed minus without it
    contribution_loss: float | None = None  # validation loss without the seed minus with it
    gradient_norm: float = 0.0
    gradient_health: float = 1.0
    has_vanishing: bool = False
    has_exploding: bool = False
    gradient_norm_ratio: float = 0.0
    parameter_count: int = 0
    is_healthy: bool = True
    can_advance: bool = False  # the gates would let it into the stage that a controller can ask for


@dataclass(slots=True)
class EpochReport:
    """One member at the end of an epoch. Accuracies in percent; losses in nats; FLOPs of one forward pass a sample.

    Of a regression an accuracy is the score that takes its place, R-squared in percent (see `esper.leyline.score`), a
    loss is that of standardised targets, and val_rmse is in the targets' own unit, the mean over targets (NaN where
    there are classes). training_flops: of all its training so far (NaN: begun before they were counted). action: what
    the controller asked for before the epoch; is_refused: it was not done.
    """

    member: int
    epoch: int
    max_epochs: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    best_val_accuracy: float
    parameter_count: int
    flops_per_sample: int
    slots: dict[str, SeedStateReport] = field(default_factory=dict)
    rolled_back: bool = False
    rollbacks: int = 0
    retired: bool = False
    is_twin: bool = False
    action: Action = WAIT
    is_refused: bool = False
    val_rmse: float = math.nan
    training_flops: float = math.nan

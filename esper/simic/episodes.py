"""What is recorded of an episode of growing."""

from dataclasses import dataclass

_NO_HISTORY = (0.0,) * 5


@dataclass(slots=True, kw_only=True)
class TrainingSnapshot:
    """One host with one slot, at the end of an epoch. Accuracies and improvements in percent; `*_delta`: since the
    epoch before; histories: the last five epochs, oldest first."""

    epoch: int = 0
    global_step: int = 0
    train_loss: float = 0.0
    val_loss: float = 0.0
    loss_delta: float = 0.0
    train_accuracy: float = 0.0
    val_accuracy: float = 0.0
    accuracy_delta: float = 0.0
    plateau_epochs: int = 0
    best_val_accuracy: float = 0.0
    best_val_loss: float = 0.0
    loss_history_5: tuple[float, ...] = _NO_HISTORY
    accuracy_history_5: tuple[float, ...] = _NO_HISTORY
    has_active_seed: bool = False
    seed_stage: int = 0
    seed_epochs_in_stage: int = 0
    seed_alpha: float = 0.0
    seed_improvement: float = 0.0
    available_slots: int = 0

"""Every number of an observation: its name, its meaning, and how it comes out of a report.

`python -m esper.tamiyo.feature_table` prints the table, docs/observations.md.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esper.leyline import SeedStage
from esper.printing import say_text

Column = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Feature:
    """One number of an observation.

    value: from the raw columns (`ObservationEncoder` names them), [M] each, or [M * S] for slots; NaN where unknown.
    flag: the feature that is 1 where this one is known; where it is 0, so is this one. Every value is cut to [-1, 1].
    """

    name: str
    meaning: str
    value: Callable[[Any], Column]
    flag: str = ""


def _known(*columns: Column) -> Column:
    return np.isfinite(np.stack(columns)).all(axis=0)


def _epochs(count: Column) -> Column:
    return np.log1p(count) / np.log(101)


def _size(norm: Column, middle: float, decades: float) -> Column:
    return np.log10(np.maximum(norm, 1e-30) / middle) / decades


def _equals(column: str, number: int) -> Callable[[Any], Column]:
    return lambda r: getattr(r, column) == number


HOST_FEATURES = (
    Feature("progress", "epoch / last epoch", lambda r: r.epoch / r.max_epochs),
    Feature("epochs_left", "log(1 + epochs left) / log 101", lambda r: _epochs(r.max_epochs - r.epoch)),
    Feature("train_known", "1 once the host has trained", lambda r: _known(r.train_loss, r.train_accuracy)),
    Feature("train_loss", "log(1 + nats) / 2", lambda r: np.log1p(r.train_loss) / 2, "train_known"),
    Feature("train_accuracy", "percent / 100", lambda r: r.train_accuracy / 100, "train_known"),
    Feature("val_known", "1 if validation gave finite figures", lambda r: _known(r.val_loss, r.val_accuracy)),
    Feature("val_loss", "log(1 + nats) / 2", lambda r: np.log1p(r.val_loss) / 2, "val_known"),
    Feature("val_accuracy", "percent / 100", lambda r: r.val_accuracy / 100, "val_known"),
    Feature(
        "below_best",
        "best validation accuracy so far less this epoch's: tanh(points / 10)",
        lambda r: np.tanh((r.best_val_accuracy - r.val_accuracy) / 10),
        "val_known",
    ),
    Feature("gap_known", "1 if both accuracies are known", lambda r: _known(r.train_accuracy, r.val_accuracy)),
    Feature(
        "generalisation_gap",
        "training accuracy less validation accuracy: tanh(points / 20)",
        lambda r: np.tanh((r.train_accuracy - r.val_accuracy) / 20),
        "gap_known",
    ),
    Feature(
        "change_known",
        "1 from the second validation on, if this one gave finite figures",
        lambda r: (r.validations >= 2) & _known(r.val_loss, r.val_accuracy),
    ),
    Feature(
        "accuracy_change",
        "validation accuracy since the last epoch: tanh(points / 10)",
        lambda r: np.tanh(r.accuracy_delta / 10),
        "change_known",
    ),
    Feature(
        "loss_change",
        "validation loss since the last epoch: tanh(nats / 0.5)",
        lambda r: np.tanh(r.loss_delta / 0.5),
        "change_known",
    ),
    Feature(
        "smoothed_improvement",
        "exponential mean of the change in accuracy: tanh(points an epoch / 5)",
        lambda r: np.tanh(r.smoothed_improvement / 5),
        "change_known",
    ),
    Feature(
        "plateau",
        "epochs since accuracy last rose by half a point: log(1 + epochs) / log 101",
        lambda r: _epochs(r.plateau_epochs),
    ),
    Feature("host_known", "1 if the untrained host was seen (epoch 0)", lambda r: _known(r.host_parameters)),
    Feature(
        "parameter_growth",
        "parameters over the untrained host's: log2(ratio) / 4",
        lambda r: np.log2(r.parameter_count / r.host_parameters) / 4,
        "host_known",
    ),
    Feature(
        "compute_growth",
        "FLOPs a sample over the untrained host's: log2(ratio) / 4",
        lambda r: np.log2(r.flops_per_sample / r.host_flops) / 4,
        "host_known",
    ),
    Feature("rolled_back", "1 if the governor put the member back in this epoch", lambda r: r.rolled_back),
    Feature("rollbacks", "so far / 2 (the second retires the member)", lambda r: r.rollbacks / 2),
    Feature("retired", "1 if the member was taken out of training", lambda r: r.retired),
)

SLOT_FEATURES = (
    *(
        Feature(f"stage_{stage.name.lower()}", f"1 in stage {stage.name}", _equals("stage", stage))
        for stage in SeedStage
        if stage is not SeedStage.UNKNOWN
    ),
    Feature("alpha", "the seed's share of the slot's output", lambda r: r.alpha),
    Feature("epochs_in_stage", "log(1 + epochs) / log 101", lambda r: _epochs(r.epochs_in_stage)),
    Feature("epochs_total", "since planting: log(1 + epochs) / log 101", lambda r: _epochs(r.epochs_total)),
    Feature(
        "improvement",
        "validation accuracy since the stage began: tanh(points / 20)",
        lambda r: np.tanh(r.improvement / 20),
    ),
    Feature("contribution_known", "1 if accuracy without the seed was measured", lambda r: _known(r.contribution)),
    Feature(
        "contribution",
        "validation accuracy with the seed minus without it: tanh(points / 20)",
        lambda r: np.tanh(r.contribution / 20),
        "contribution_known",
    ),
    Feature("contribution_loss_known", "1 if the same is known in loss", lambda r: _known(r.contribution_loss)),
    Feature(
        "contribution_loss",
        "validation loss without the seed minus with it: tanh(nats)",
        lambda r: np.tanh(r.contribution_loss),
        "contribution_loss_known",
    ),
    Feature(
        "gradient_known",
        "1 if the slot holds a seed whose gradients were seen",
        lambda r: r.holds_seed & ((r.gradient_norm > 0) | (r.has_vanishing == 1)),
    ),
    Feature(
        "gradient_norm",
        "mean norm of the seed's gradients: log10(norm / 0.001) / 5",
        lambda r: _size(r.gradient_norm, 1e-3, 5),
        "gradient_known",
    ),
    Feature(
        "gradient_ratio",
        "norm of the seed's gradients over the host's: log10(ratio) / 2",
        lambda r: _size(r.gradient_norm_ratio, 1.0, 2),
        "gradient_known",
    ),
    Feature(
        "gradient_health",
        "1 when none of its gradients vanish or explode",
        lambda r: r.gradient_health,
        "gradient_known",
    ),
    Feature("vanishing", "1 if some vanish", lambda r: r.has_vanishing, "gradient_known"),
    Feature("exploding", "1 if some explode", lambda r: r.has_exploding, "gradient_known"),
    Feature("healthy", "0 if the seed gave or got what is not finite", lambda r: r.is_healthy),
    Feature("can_advance", "1 if the gates would let it on", lambda r: r.can_advance),
    Feature(
        "parameter_share",
        "the seed's parameters / all of the member's",
        lambda r: r.holds_seed * r.parameter_count / r.all_parameters,
    ),
)


def blueprint_features(blueprints: Iterable[str]) -> list[Feature]:
    """One-hot over what may be planted; a slot shows its seed's, or until it is dormant again that of its last one."""
    return [
        Feature(f"blueprint_{name}", f"1 if the seed is a {name}", _equals("blueprint", number))
        for number, name in enumerate(blueprints)
    ]


def observation_names(slots: Iterable[str], blueprints: Sequence[str]) -> tuple[str, ...]:
    """[F] names in order: the host's features, then slot by slot "<slot>.<feature>"."""
    names = [feature.name for feature in HOST_FEATURES]
    for slot in slots:
        names += [f"{slot}.{feature.name}" for feature in (*SLOT_FEATURES, *blueprint_features(blueprints))]
    return tuple(names)


def page() -> str:
    """docs/observations.md."""
    parts = [
        "# Observations\n",
        "What a learned controller sees of one member at the end of an epoch: float32, finite, each number in [-1, 1].",
        "A number that may be unknown names the flag that is 1 where it is known; where the flag is 0, so is it.",
        "This page is made by `python -m esper.tamiyo.feature_table`; a test keeps it in step with the code.\n",
        "Accuracies are in percent and points, losses in nats; of a regression an accuracy is R-squared, from -100 on,",
        "and a loss that of standardised targets. Validation is the validation split, never the test split. In order:",
        "the host's features, then for each slot by depth its own and the one-hot of its blueprint.",
        "A policy is saved with these names and takes no observation that has others.\n",
        "## The host\n",
        *_table("", HOST_FEATURES),
        "\n## Each slot\n",
        "Named after the slot: `mid.alpha`, `block2.alpha`. There is one `blueprint_` feature for each that the run",
        "may plant; a slot shows its seed's, and after a cull that of its last one until it is dormant again.\n",
        *_table("*slot*.", (*SLOT_FEATURES, *blueprint_features(["*name*"]))),
    ]
    return "\n".join(parts) + "\n"


def _table(prefix: str, features: Sequence[Feature]) -> list[str]:
    rows = [f"| {prefix}`{f.name}` | {f.meaning} | {f'`{f.flag}`' if f.flag else ''} |" for f in features]
    return ["| name | meaning and scale | known where |\n|---|---|---|", *rows]


if __name__ == "__main__":
    say_text(page())

"""Every name under which something is logged: its unit and its meaning. Nothing is logged under another.

`python -m esper.nissa.metric_names` prints the glossary, docs/metrics.md.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from esper.leyline import LEVELS, SCORE_KINDS, SeedStage, TelemetryEventType
from esper.leyline.controls import CONTROLS, difference_name
from esper.printing import say_text


@dataclass(frozen=True, slots=True)
class Metric:
    """One name of metrics.jsonl. A metric that may be null says when."""

    name: str
    unit: str
    meaning: str


def _by_name(*metrics: Metric) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


EPOCH_METRICS = _by_name(
    Metric("schema", "", "version of this record's layout, 2"),
    Metric("epoch", "epochs", "epochs of training so far; 0 is the untrained host"),
    Metric("wall_s", "s", "wall time of this epoch, everything included"),
    Metric("train_s", "s", "of it: training steps"),
    Metric("validation_s", "s", "of it: scoring the validation split"),
    Metric("counterfactual_s", "s", "of it: scoring the validation split again without each live seed"),
    Metric("samples_per_s", "1/s", "training samples of all members together, a second of training"),
    Metric("host_epochs_per_s", "1/s", "members' passes over their training set, a second of wall time"),
    Metric("members", "", "one entry a member, static twins included"),
)

MEMBER_METRICS = _by_name(
    Metric("member", "", "the member's number in its population, from 0"),
    Metric("is_twin", "", "true for a static twin: same first weights and data order, never grown"),
    Metric("twin_of", "", "the member whose twin this is; null for a grown member"),
    Metric("train_loss", "nats", "mean loss over this epoch's training steps (see below); null at epoch 0"),
    Metric("train_accuracy", "%", "accuracy over this epoch's training steps; null at epoch 0"),
    Metric("val_loss", "nats", "mean loss on the validation split after the epoch (see below); null if not finite"),
    Metric("val_accuracy", "%", "accuracy on the validation split after the epoch"),
    Metric("train_r2", "%", "of a regression instead: R-squared over this epoch's training steps; null at epoch 0"),
    Metric("val_r2", "%", "of a regression instead: R-squared on the validation split after the epoch"),
    Metric("val_rmse", "the target's", "of a regression: root mean squared error on validation, mean over targets"),
    Metric("parameter_count", "parameters", "parameters of host and seeds now; a culled seed's no longer count"),
    Metric("flops_per_sample", "FLOPs", "one forward pass of one sample through host and seeds as they are now"),
    Metric("training_flops", "FLOPs", "of all training so far: three forward passes a sample, epoch by epoch"),
    Metric("rolled_back", "", "true when the governor put the member back to an earlier snapshot in this epoch"),
    Metric("retired", "", "true when the member was taken out of training for good"),
    Metric("action", "", "what the controller asked for before the epoch, and whether it was refused"),
    Metric("slots", "", "one entry a slot, by its name"),
)

SLOT_METRICS = _by_name(
    Metric("stage", "", "stage of the slot's seed at the end of the epoch; DORMANT when there is none"),
    Metric("stage_value", "", "the same as a number"),
    Metric("seed", "", "the seed's name; empty when there is none"),
    Metric("blueprint", "", "what the seed was built from"),
    Metric("blend", "", "how it blends in"),
    Metric("alpha", "0 to 1", "the seed's share in the slot's output"),
    Metric("epochs_in_stage", "epochs", "epochs since the seed entered its stage"),
    Metric("epochs_total", "epochs", "epochs since the seed was planted"),
    Metric("contribution", "points", "validation score with the seed minus without it; null when not measured"),
    Metric("contribution_loss", "nats", "validation loss without the seed minus with it; null when not measured"),
    Metric("gradient_norm", "", "the seed's gradient norm, raw and unclamped (controllers see it clamped at 10)"),
    Metric("gradient_health", "0 to 1", "1 when none of the seed's gradients vanish or explode"),
    Metric("has_vanishing", "", "true when some of the seed's gradients vanish"),
    Metric("has_exploding", "", "true when some of the seed's gradients explode"),
    Metric("gradient_norm_ratio", "", "the seed's gradient norm over the host's"),
    Metric("improvement", "points", "validation score gained since the seed entered its stage"),
    Metric("parameter_count", "parameters", "the seed's own"),
    Metric("is_healthy", "", "false when its output or gradients were not finite"),
    Metric("can_advance", "", "true when the gates would let it take the step that waits for a controller"),
)

LEARNING_METRICS = _by_name(
    Metric("schema", "", "version of this record's layout, 1"),
    Metric("update", "updates", "updates of the policy so far"),
    Metric("wall_s", "s", "wall time of this update, everything included"),
    Metric("collect_s", "s", "of it: episodes, hosts' training included"),
    Metric("update_s", "s", "of it: the learner's own work"),
    Metric("validation_s", "s", "of it: validation episodes"),
    Metric("episodes", "episodes", "episodes seen so far"),
    Metric("steps", "decisions", "decisions seen so far, one a member an epoch"),
    Metric("episodes_finished", "episodes", "that ended in this update"),
    Metric("return_mean", "100 points", "their mean undiscounted return; not there when none ended"),
    Metric("return_std", "100 points", "their standard deviation"),
    Metric("length_mean", "decisions", "their mean length"),
    Metric("validation_return", "100 points", "mean return of validation episodes; there when they were due"),
    Metric("best_validation_return", "100 points", "best of them so far"),
    Metric("heuristic_return", "100 points", "for reference: the heuristic's, on hosts of the policy's first episodes"),
    Metric("static_return", "100 points", "for reference: that of the same hosts without growth"),
    Metric("references_s", "s", "wall time of measuring the two; there in the first update that follows"),
    Metric("policy_loss", "", "what the policy's step minimises"),
    Metric("value_loss", "", "mean squared error of the predicted returns; of IQL its expectile loss"),
    Metric("q_loss", "", "IQL: mean squared error of the action values"),
    Metric("advantage", "", "IQL: what recorded actions were worth above the state's value, mean"),
    Metric("advantage_weight", "", "IQL: what they count for in the policy's loss, mean"),
    Metric("entropy", "nats", "of the policy, over decisions with a choice"),
    *(Metric(f"entropy_{level}", "nats", f"of it: choosing the {level}") for level in LEVELS),
    Metric("approx_kl", "nats", "divergence of the new policy from the acting one"),
    Metric("clip_fraction", "0 to 1", "share of decisions whose ratio was clipped"),
    Metric("explained_variance", "to 1", "share of the returns' variance that the values explain"),
    Metric("gradient_norm", "", "before clipping, mean over steps"),
    Metric("learning_rate", "", "of this update"),
    Metric("entropy_coefficient", "", "weight of the entropy bonus in this update"),
    Metric("forced_share", "0 to 1", "share of decisions with a single legal action; they carry no policy loss"),
    Metric("epochs_run", "", "passes over the rollout before the divergence stopped them"),
)

EVENT_MEANINGS: dict[TelemetryEventType, str] = {
    TelemetryEventType.GERMINATED: "a seed was planted; data: blueprint, blend, reason",
    TelemetryEventType.STAGE_CHANGED: "a seed moved on; data: from, to, blueprint, blend, reason",
    TelemetryEventType.FOSSILIZED: "a seed became a lasting part of its host",
    TelemetryEventType.CULLED: "a seed was given up; data: reason",
    TelemetryEventType.GATE_EVALUATED: (
        "a quality gate was asked; data: gate, target, passed, score (0 to 1), checks_passed, checks_failed"
    ),
    TelemetryEventType.ACTION_REFUSED: "the controller asked for what the seed's stage forbids; nothing was changed",
    TelemetryEventType.GOVERNOR_ROLLBACK: "a member went wrong and was put back; data: reason, to_epoch",
    TelemetryEventType.MEMBER_RETIRED: "a member went wrong too often and trains no more; data: reason",
    TelemetryEventType.FINAL_TRAINED: (
        "final networks were trained for an epoch, after growth; `epoch` counts on from the growth's last; data: "
        "trained and last (epochs of theirs), score (their mean on validation)"
    ),
    TelemetryEventType.CHECKPOINT_SAVED: "the run was saved and can be resumed from here; data: checkpoint, its number",
    TelemetryEventType.RUN_STARTED: "the run began",
    TelemetryEventType.RUN_RESUMED: "the run went on from a checkpoint",
    TelemetryEventType.RUN_FINISHED: "the run ended; its status is in run.json",
}

_SCORES = tuple(f"{split}_{kind.name}" for kind in SCORE_KINDS for split in ("train", "val"))
_OF_A_MEMBER = ("train_loss", "val_loss", *_SCORES, "val_rmse", "parameter_count", "flops_per_sample", "training_flops")
_SPREAD = ("val_loss", *(f"val_{kind.name}" for kind in SCORE_KINDS), "val_rmse", "parameter_count")
_OF_A_TEST = (*(f"test_{kind.name}" for kind in SCORE_KINDS), "test_rmse", "test_bits_per_byte")
# What a dashboard draws, "grown/val_accuracy": a group of curves -> the metrics that it is made of.
CURVES: dict[str, tuple[str, ...]] = {
    "grown": (*_OF_A_MEMBER, "rolled_back", "retired"),
    "twin": (*_OF_A_MEMBER, "rolled_back", "retired"),
    "difference": _OF_A_MEMBER,
    "grown_spread": _SPREAD,
    "twin_spread": _SPREAD,
    "difference_spread": _SPREAD,
    "seeds": (
        "alpha",
        "contribution",
        "contribution_loss",
        "improvement",
        "gradient_norm",
        "gradient_norm_ratio",
        "gradient_health",
    ),
    "stages": tuple(stage.name for stage in SeedStage if stage is not SeedStage.UNKNOWN),
    "time": ("wall_s", "train_s", "validation_s", "counterfactual_s", "samples_per_s", "host_epochs_per_s"),
    "learning": tuple(name for name in LEARNING_METRICS if name not in ("schema", "update")),
}
# Single numbers that a finished run adds to them, from run.json's summary.
OUTCOMES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("grown", *CONTROLS), (*_OF_A_TEST, "parameters", "training_flops")),
    **dict.fromkeys(map(difference_name, CONTROLS), _OF_A_TEST),
    "seeds": ("planted", "culled", "fossilized"),
}
CURVE_MEANINGS = {
    "grown": "mean over grown members; of `rolled_back` and `retired`: their share",
    "twin": "mean over static twins",
    "difference": "mean over pairs: a grown member minus its twin",
    "grown_spread": "standard deviation over grown members, of two or more",
    "twin_spread": "standard deviation over static twins",
    "difference_spread": "standard deviation over pairs",
    "seeds": "mean over the seeds in grown members' slots, fossilised ones included",
    "stages": "how many slots of grown members are in the stage",
    "time": "of the whole population, as in metrics.jsonl",
    "learning": "of the policy, as in learning.jsonl",
}


def axis_of(group: str) -> str:
    """What a group of curves is drawn over: "epoch" or "update"."""
    return "update" if group == "learning" else "epoch"


def unknown_names(record: Mapping[str, Any]) -> list[str]:
    """Dotted names in one line of metrics.jsonl that this module does not know, each once ("members.slots.alfa")."""
    unknown = _not_in(EPOCH_METRICS, record, "")
    for member in record.get("members", ()):
        unknown += _not_in(MEMBER_METRICS, member, "members.")
        for slot in (member.get("slots") or {}).values():
            unknown += _not_in(SLOT_METRICS, slot, "members.slots.")
    return list(dict.fromkeys(unknown))


def _not_in(known: Mapping[str, Metric], names: Iterable[str], prefix: str) -> list[str]:
    return [prefix + name for name in names if name not in known]


def glossary() -> str:
    """docs/metrics.md."""
    parts = [
        "# Metrics\n",
        "What a run writes down, name by name. This page is made by `python -m esper.nissa.metric_names`; a test keeps",
        "it in step with the code. A number that is not finite is written as null.\n",
        "## metrics.jsonl: one line an epoch\n",
        *_table(EPOCH_METRICS),
        "\n### Each of `members`\n",
        *_table(MEMBER_METRICS),
        "\nA member's **score** is what gates, rewards and policies go by, and what reports and tables show: a number",
        "in percent that grows, whatever the loss. Of classes it is the accuracy. Of a regression (`task.loss=mse` or",
        "`huber`) it is 100 x R-squared, the share of the targets' variance that is explained: 100 is perfect, 0 as",
        "good as the mean of the split's targets. What is below -100, or no number, counts as -100: a member that",
        "diverged has a score, too. Of several targets it is the mean of theirs. The loss is the cross-entropy in",
        "nats; of a regression it is of targets that are standardised by the training split (`huber`: delta 1).",
        "\n### Each of a member's `slots`\n",
        *_table(SLOT_METRICS),
        "\n## learning.jsonl: one line an update of a policy that learns\n",
        *_table(LEARNING_METRICS),
        "\n## events.jsonl: one line an event\n",
        "Every line holds `schema`, `type`, `epoch`, `member`, `slot`, `seed`, `message` (for people) and `data` (for",
        "programs). What does not apply is null or empty.\n",
        "| type | meaning |\n|---|---|",
        *(f"| `{event_type.value}` | {meaning} |" for event_type, meaning in EVENT_MEANINGS.items()),
        "\n## The curves of W&B and TensorBoard: `grown/val_accuracy`\n",
        "A dashboard draws one curve a name, not one a member; a point is left out where nothing was measured.\n",
        "| group | over | meaning | names |\n|---|---|---|---|",
        *(
            f"| `{group}/` | {axis_of(group)} | {CURVE_MEANINGS[group]} | {', '.join(f'`{name}`' for name in names)} |"
            for group, names in CURVES.items()
        ),
        "\nA finished run adds, as single numbers, means over members; differences are grown members minus controls:\n",
        "| group | names |\n|---|---|",
        *(f"| `{group}/` | {', '.join(f'`{name}`' for name in names)} |" for group, names in OUTCOMES.items()),
    ]
    return "\n".join(parts) + "\n"


def _table(metrics: Mapping[str, Metric]) -> list[str]:
    rows = [f"| `{metric.name}` | {metric.unit} | {metric.meaning} |" for metric in metrics.values()]
    return ["| name | unit | meaning |\n|---|---|---|", *rows]


if __name__ == "__main__":
    say_text(glossary())

"""What the files of runs and sweeps are called, and what shape the records in them have (see `misfit`)."""

from esper.files.shapes import ANY, AllBut, Among, Count, Moment, Shape

RUN_FILE = "run.json"
CONFIG_FILE = "config.yaml"
LOCK_FILE = "run.lock"
METRICS_FILE = "metrics.jsonl"
EVENTS_FILE = "events.jsonl"
LEARNING_FILE = "learning.jsonl"
REPORT_FILE = "report.html"
CHECKPOINTS = "checkpoints"
CHECKPOINT_PREFIX = "agent_epoch_"  # of the files in it
TENSORBOARD = "tensorboard"
WANDB = "wandb"
TOKENIZER = "tokenizer_sha256"  # in run.json: of what made a text's tokens, where that is more than byte values
DATA = "data_sha256"  # in run.json: of the data of a user's own
TARGETS = "targets"  # in run.json: of numbers that are predicted, the mean and spread that outputs are standardised by
RETURN_UNIT = "return_unit"  # in run.json: what a hundredth of a policy's return is, in words, where that is known
SWEEP_FILE = "sweep.json"
SWEEP_LOCK = "sweep.lock"
JOB_FILE = "job.json"
JOB_LOG = "job.log"

EPOCHS = _COUNT = Count(2_000_000)  # or updates, or members: more than a run can have
_MOST = Count(1 << 53)
_NUMBER, _TEXT = (float, None), (str, None)
_MAYBE_COUNT = (_COUNT, None)

# ---- run.json

_GROUP = {ANY: [_NUMBER]}
_DIFFERENCES = {ANY: {"mean": _NUMBER, "low": _NUMBER, "high": _NUMBER, "n": _COUNT}}
# Of a run that has final networks.
_FINALS = {
    **dict.fromkeys(("final", "final_epochs"), (_GROUP, None)),
    **dict.fromkeys(("final_difference", "final_epochs_difference"), (_DIFFERENCES, None)),
    "never_grew": _COUNT,
}
SUMMARY = {
    "grown": _GROUP,
    "twin": (_GROUP, None),
    "difference": (_DIFFERENCES, None),
    **_FINALS,
    "seeds": {ANY: _MOST},
    "wall_s": float,
}
# What a run keeps of the choice of its engine, without which it does not go on.
ENGINE = {
    **dict.fromkeys(("kind", "kernels", "device"), str),
    "threads": Count(1 << 16),
    "memory_format": Among("contiguous", "channels_last"),
}
RUN: dict[str, Shape] = {
    "schema": int,
    "id": str,
    "uid": str,
    "name": str,
    "sweep": _TEXT,
    "status": Among("queued", "running", "finished", "failed", "interrupted"),
    "seed": int,
    "epoch": _COUNT,
    "max_epochs": _COUNT,
    "update": _COUNT,
    "max_updates": _COUNT,
    "started_at": Moment(),
    "finished_at": Moment(),
    "heartbeat_at": Moment(),
    "wall_s": float,
    "overrides": [str],
    "options": {ANY: str},
    "engine": (ENGINE, None),
    "error": _TEXT,
    "summary": (SUMMARY, None),
    "pid": int,
    "host": str,
    "versions": {ANY: str},
    "ranks": _COUNT,
    "together": _COUNT,
    TOKENIZER: str,
    DATA: str,
    TARGETS: {"mean": [float], "std": [float]},
    RETURN_UNIT: str,
}
# What a run needs to go on; its engine is its checkpoint's.
_TOLD_ANEW = (TOKENIZER, DATA, TARGETS, RETURN_UNIT)
_LEFT_OUT = ("finished_at", "heartbeat_at", "error", "pid", "host", "versions", "ranks", "together", *_TOLD_ANEW)
RESUMED = {name: shape for name, shape in RUN.items() if name not in _LEFT_OUT} | {"engine": (dict, None)}
RESUMED_NEEDS = AllBut("sweep", "engine", "summary", *_FINALS)

# ---- metrics.jsonl

ACTION = {**dict.fromkeys(("operation", "slot", "blueprint", "blend"), str), "is_refused": bool}
SLOT = {
    "stage": str,
    **dict.fromkeys(("stage_value", "epochs_in_stage", "epochs_total"), _COUNT),
    "parameter_count": _MOST,
    **dict.fromkeys(("seed", "blueprint", "blend"), str),
    **dict.fromkeys(("alpha", "gradient_norm", "gradient_health", "gradient_norm_ratio"), float),
    **dict.fromkeys(("improvement", "contribution", "contribution_loss"), _NUMBER),
    **dict.fromkeys(("has_vanishing", "has_exploding", "is_healthy", "can_advance"), bool),
}
SCORES = dict.fromkeys(("train_accuracy", "val_accuracy", "train_r2", "val_r2", "val_rmse"), _NUMBER)  # as it has them
MEMBER = {
    "member": _COUNT,
    "is_twin": bool,
    "twin_of": _MAYBE_COUNT,
    **dict.fromkeys(("train_loss", "val_loss"), _NUMBER),
    **SCORES,
    **dict.fromkeys(("parameter_count", "flops_per_sample"), _MOST),
    "training_flops": _NUMBER,
    **dict.fromkeys(("rolled_back", "retired"), bool),
    "action": ACTION,
    "slots": {ANY: SLOT},
}
EPOCH = {
    "schema": int,
    "epoch": _COUNT,
    **dict.fromkeys(("wall_s", "train_s", "validation_s", "counterfactual_s"), _NUMBER),
    **dict.fromkeys(("samples_per_s", "host_epochs_per_s"), _NUMBER),
    "members": [MEMBER],
}
EPOCH_NEEDS = frozenset({"epoch", "members", "member"})  # without which an epoch's line says nothing

# ---- events.jsonl and learning.jsonl

EVENT = {
    "schema": int,
    "type": str,
    "epoch": _COUNT,
    "member": _MAYBE_COUNT,
    **dict.fromkeys(("slot", "seed", "message"), str),
    "data": {
        **dict.fromkeys(("from", "to", "blueprint", "blend", "reason", "gate", "target", "operation"), str),
        "checks_passed": [str],
        "checks_failed": [str],
        "passed": bool,
        "score": _NUMBER,
        "to_epoch": _COUNT,
    },
}
EVENT_NEEDS = frozenset({"type", "epoch"})
UPDATE = {"schema": int, "update": _COUNT, ANY: (float, bool, None)}
UPDATE_NEEDS = frozenset({"update"})

# ---- job.json and sweep.json

JOB = {
    "id": str,
    "overrides": [str],
    "status": Among("running", "finished", "failed", "interrupted"),
    "attempt": _COUNT,
    "started_at": Moment(),
    "finished_at": Moment(),
    "seconds": _NUMBER,
    "result": ({ANY: (float, bool, str, None)}, None),
    "error": _TEXT,
    "pid": int,
    "host": str,
}
SWEEP = {"id": str, "base": dict, "swept": [str], "jobs": {ANY: [str]}, "arguments": [str]}

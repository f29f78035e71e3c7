"""A run as one flat row: what run.json says of it, its accuracies as means over members."""

import os
import re
from collections.abc import Container
from pathlib import Path
from typing import Any

from esper.errors import FormatError
from esper.files import fitting, misfit, open_to_read, parse_json, read_all, read_bytes
from esper.files.reading import MOST_LINE_BYTES, MOST_YAML_BYTES
from esper.files.records import (
    CONFIG_FILE,
    EPOCH,
    EPOCH_NEEDS,
    JOB,
    JOB_FILE,
    LEARNING_FILE,
    METRICS_FILE,
    RUN,
    RUN_FILE,
    UPDATE,
    UPDATE_NEEDS,
)
from esper.files.shapes import Among, Moment
from esper.leyline import recorded_kind
from esper.leyline.controls import difference_name
from esper.runner.figures import GAINS, mean
from esper.study.runs.folders import Stamp, place

Row = dict[str, Any]

STATUSES = ("queued", "running", "finished", "failed", "interrupted", "killed", "unreadable")
# Every figure of a row: what it is stored as, and what it means. Accuracies and R-squared are in percent.
COLUMNS: dict[str, tuple[str, str]] = {
    "run": ("TEXT PRIMARY KEY", "its folder, below the root"),
    "id": ("TEXT", "its folder's own name"),
    "uid": ("TEXT", "stays the same when it is resumed or moved"),
    "name": ("TEXT", "as configured"),
    "sweep": ("TEXT", "the sweep that it is a job of"),
    "status": ("TEXT", f"{', '.join(STATUSES[:-1])}, or {STATUSES[-1]}"),
    "task": ("TEXT", "the option that was chosen"),
    "host": ("TEXT", "the option that was chosen"),
    "policy": ("TEXT", "the option that was chosen"),
    "seed": ("INTEGER", "as configured"),
    "members": ("INTEGER", "grown members"),
    "epoch": ("INTEGER", "epochs so far"),
    "max_epochs": ("INTEGER", "epochs it is to have"),
    "update": ("INTEGER", "updates of the policy so far"),
    "max_updates": ("INTEGER", "updates the policy is to have"),
    "test_accuracy": ("REAL", "mean over grown members"),
    "twin_test_accuracy": ("REAL", "mean over their static twins"),
    "test_r2": ("REAL", "of a regression, in the accuracy's place: R-squared, mean over grown members"),
    "twin_test_r2": ("REAL", "mean over their static twins"),
    "test_rmse": ("REAL", "of a regression: error in the target's unit, mean over grown members"),
    "final_test_accuracy": ("REAL", "mean over what they have grown into, trained from scratch for the same FLOPs"),
    "final_test_r2": ("REAL", "of a regression: the same"),
    "gain": ("REAL", "grown minus twin, points"),
    "gain_low": ("REAL", "its 95% interval's lower end"),
    "gain_high": ("REAL", "its 95% interval's upper end"),
    "final_gain": ("REAL", "grown minus what they have grown into, trained from scratch for the same FLOPs, points"),
    "final_gain_low": ("REAL", "its 95% interval's lower end"),
    "final_gain_high": ("REAL", "its 95% interval's upper end"),
    "val_accuracy": ("REAL", "mean over grown members, of the last epoch written"),
    "val_r2": ("REAL", "of a regression: mean over grown members, of the last epoch written"),
    "test_bits_per_byte": ("REAL", "mean over grown members, of text"),
    "parameters": ("REAL", "mean over grown members, of the last epoch written"),
    "flops_per_sample": ("REAL", "mean over grown members, of the last epoch written"),
    "training_flops": ("REAL", "mean over grown members, of all epochs so far"),
    "planted": ("INTEGER", "seeds, all members together"),
    "culled": ("INTEGER", "of them"),
    "fossilized": ("INTEGER", "of them"),
    "started_at": ("TEXT", "when it first began, UTC"),
    "finished_at": ("TEXT", "when it last ended, UTC"),
    "heartbeat_at": ("TEXT", "when it last wrote run.json, UTC"),
    "wall_s": ("REAL", "seconds that it ran"),
    "machine": ("TEXT", "the machine it last ran on"),
    "pid": ("INTEGER", "the process it last was"),
    "version": ("TEXT", "of esper"),
    "error": ("TEXT", "why it failed"),
    "overrides": ("TEXT", "as given on the command line"),
}
_KINDS = {"TEXT": str, "INTEGER": int, "REAL": float}
ROW: dict[str, Any] = {name: (_KINDS[kind.split()[0]], None) for name, (kind, _) in COLUMNS.items()}
ROW |= {
    "run": str,
    "status": Among(*STATUSES),
    **dict.fromkeys(("started_at", "finished_at", "heartbeat_at"), Moment()),
}
_COPIED = [
    *("id", "uid", "name", "sweep", "status", "seed", "epoch", "max_epochs", "update", "max_updates"),
    *("started_at", "finished_at", "heartbeat_at", "wall_s", "pid", "error"),
]
_GROUPS = ("task", "host", "policy")
_MEANS = (
    *("test_accuracy", "val_accuracy", "test_r2", "val_r2", "test_rmse", "test_bits_per_byte"),
    *("parameters", "flops_per_sample", "training_flops"),
)
_TAIL_BYTES = 1 << 16


def read_row(root: Path | str, run: str) -> tuple[Row, Stamp | None]:
    """The row of this run, and the stamp of the run.json that it was read from (None where there is none any more).

    One whose run.json is not what it should be is unreadable; `error` says why, and what is sound is there.
    """
    folder, row = place(root, run), _empty(root, run)
    record, stamp, problem = _read(f"{folder}/{RUN_FILE}", RUN)
    row |= {key: record[key] for key in _COPIED if key in record}
    row |= {"machine": record.get("host"), "version": _part(record, "versions").get("esper")}
    row["overrides"] = " ".join(record.get("overrides") or [])
    if record:
        groups = chosen_groups(folder, _part(record, "options"))
        row |= {group: groups.get(group) for group in _GROUPS}
        row |= _figures(_part(record, "summary")) or _latest(folder, row)
    return _marked(row, problem), stamp


def read_job_row(root: Path | str, job: str) -> tuple[Row, Stamp | None]:
    """As `read_row`, of a sweep's job that has not become a run, by its job.json."""
    row = _empty(root, job)
    record, stamp, problem = _read(f"{place(root, job)}/{JOB_FILE}", JOB)
    row |= {key: record[key] for key in ("status", "started_at", "finished_at", "pid", "error") if key in record}
    row |= {"wall_s": record.get("seconds"), "machine": record.get("host")}
    row["sweep"] = os.path.basename(os.path.dirname(place(root, job))).removeprefix("sweep-")
    row["overrides"] = " ".join(record.get("overrides") or [])
    return _marked(row, problem), stamp


def _marked(row: Row, problem: str | None) -> Row:
    return row | {"status": "unreadable", "error": problem} if problem else row


def _empty(root: Path | str, run: str) -> Row:
    return dict.fromkeys(COLUMNS) | {"run": run, "id": os.path.basename(place(root, run)), "status": "unreadable"}


def _read(path: str, shape: dict[str, Any]) -> tuple[dict[str, Any], Stamp | None, str | None]:
    """What the file holds that is as it should be, its stamp, and what is not."""
    stamp, name = None, os.path.basename(path)
    try:
        with open_to_read(path) as file:
            stamp = Stamp.of(os.fstat(file.fileno()))
            value = parse_json(read_all(file))
        if not isinstance(value, dict):
            raise FormatError("it holds no object")
    except (OSError, FormatError) as error:
        return {}, stamp, f"{name} cannot be read: {getattr(error, 'strerror', None) or error}"
    record, problems = fitting(value, shape)
    if "status" not in value:
        problems.append("there is no 'status'")
    return record, stamp, f"{name}: {problems[0]}" if problems else None


def _figures(summary: dict[str, Any]) -> Row:
    """What a finished run ended with."""
    if not summary:
        return {}
    grown, seeds = _part(summary, "grown"), _part(summary, "seeds")
    score = f"test_{recorded_kind(grown).name}"
    found: Row = {name: mean(grown.get(name) or ()) for name in _MEANS} | {
        "members": len(grown.get("parameters") or []),
        **{name: seeds.get(name) for name in ("planted", "culled", "fossilized")},
    }
    for control, gain in GAINS.items():
        difference = _part(_part(summary, difference_name(control)), score)
        found[f"{control}_{score}"] = mean(_part(summary, control).get(score) or [])
        found |= {gain: difference.get("mean"), f"{gain}_low": difference.get("low")}
        found[f"{gain}_high"] = difference.get("high")
    return found


def _latest(folder: str, row: Row) -> Row:
    """What the last lines of learning.jsonl and metrics.jsonl say, as long as there is no summary.

    run.json is written once a second at most: progress is theirs where they are further.
    """
    learning = _last_record(f"{folder}/{LEARNING_FILE}", UPDATE, UPDATE_NEEDS) if row["max_updates"] else {}
    found: Row = {"update": max(learning["update"], row["update"] or 0)} if learning else {}
    record = _last_record(f"{folder}/{METRICS_FILE}", EPOCH, {*EPOCH_NEEDS, "is_twin"})
    if not record:
        return found
    grown = [member for member in record["members"] if not member["is_twin"]]
    return found | {
        "epoch": max(record["epoch"], row["epoch"] or 0),
        "members": len(grown),
        **{name: mean(member.get(name) for member in grown) for name in ("val_accuracy", "val_r2")},
        "parameters": mean(member.get("parameter_count") for member in grown),
        **{name: mean(member.get(name) for member in grown) for name in ("flops_per_sample", "training_flops")},
    }


def _last_record(path: str, shape: dict[str, Any], needs: Container[str]) -> dict[str, Any]:
    """The last line that was written whole; empty where that is none of this shape."""
    try:
        record = parse_json(_last_line(path))
    except (OSError, FormatError):
        return {}
    return {} if misfit(record, shape, needs) else dict(record)


def _last_line(path: str) -> bytes:
    """The last line that was written whole."""
    with open_to_read(path) as file:
        end = file.seek(0, 2)
        back = _TAIL_BYTES
        while True:
            file.seek(max(end - back, 0))
            lines = read_all(file, back + MOST_LINE_BYTES).split(b"\n")[:-1]
            if len(lines) > 1 or back >= min(end, MOST_LINE_BYTES):
                return lines[-1] if lines else b""
            back *= 4


def chosen_groups(folder: Path | str, options: dict[str, Any]) -> dict[str, Any]:
    """The options that were chosen; of task, host and policy at least the names that config.yaml has."""
    missing = [group for group in _GROUPS if not options.get(group)]
    if not missing:
        return options
    try:
        config = read_bytes(Path(folder, CONFIG_FILE), MOST_YAML_BYTES).decode(errors="replace")
    except (OSError, FormatError):
        return options
    names = {group: re.search(rf"^{group}:\n(?: .*\n)*?  name: (.+)$", config, re.MULTILINE) for group in missing}
    return options | {group: name[1].strip("'\"") for group, name in names.items() if name}


def _part(record: dict[str, Any], key: str) -> dict[str, Any]:
    value = record.get(key)
    return value if isinstance(value, dict) else {}

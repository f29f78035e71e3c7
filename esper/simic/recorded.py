"""What a run wrote down, as the reports that its controller saw."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from esper.errors import LearnerError
from esper.leyline import Action, EpochReport, Operation, SeedStage, SeedStateReport

SCHEMA = 2  # of metrics.jsonl
METRICS_FILE = "metrics.jsonl"
RUN_FILE = "run.json"

Episode = list[EpochReport]  # one member's reports from epoch 0 on

_NUMBER, _MAYBE = (int, float), (int, float, type(None))
_RECORD = {"epoch": int, "members": list}
_MEMBER = {
    **dict.fromkeys(("member", "parameter_count", "flops_per_sample"), int),
    **dict.fromkeys(("train_loss", "train_accuracy", "val_loss", "val_accuracy"), _MAYBE),
    **dict.fromkeys(("is_twin", "rolled_back", "retired"), bool),
    **dict.fromkeys(("action", "slots"), dict),
}
_ACTION = {**dict.fromkeys(("operation", "slot", "blueprint", "blend"), str), "is_refused": bool}
_SLOT = {
    **dict.fromkeys(("stage_value", "epochs_in_stage", "epochs_total", "parameter_count"), int),
    **dict.fromkeys(("seed", "blueprint", "blend"), str),
    **dict.fromkeys(("alpha", "gradient_norm", "gradient_health", "gradient_norm_ratio"), _NUMBER),
    **dict.fromkeys(("improvement", "contribution", "contribution_loss"), _MAYBE),
    **dict.fromkeys(("has_vanishing", "has_exploding", "is_healthy", "can_advance"), bool),
}
_SEED_NAMES = {
    "stage_value": "stage",
    "seed": "seed_id",
    "blueprint": "blueprint_id",
    "blend": "blend_algorithm_id",
}


def find_runs(folder: str | os.PathLike[str]) -> list[Path]:
    """The run directory itself, or every run in the folders below it (a sweep's, say). Raises LearnerError for none."""
    folder = Path(folder)
    runs = [folder] if (folder / METRICS_FILE).is_file() else sorted(p.parent for p in folder.rglob(METRICS_FILE))
    if not runs:
        raise LearnerError(
            f"{folder}: no run with a {METRICS_FILE} is there; expected a run directory, outputs/<name>/<id>."
        )
    return runs


def read_episodes(run_dir: str | os.PathLike[str]) -> list[Episode]:
    """The reports of every member of a run, member by member, in order; figures that are not known are NaN.

    A line that was never finished ends the file. Raises LearnerError naming file, line, what was found and what was
    expected, for another schema, a missing field or a value of another type.
    """
    run_dir = Path(run_dir)
    max_epochs = _max_epochs(run_dir / RUN_FILE)
    under_way: dict[int, Episode] = {}
    episodes: list[Episode] = []
    for where, record in _lines(run_dir / METRICS_FILE):
        _check(record, _RECORD, where)
        for plain in record["members"]:
            _check(plain, _MEMBER, f"{where}: members")
            place = f"{where}: member {plain['member']}"
            episode = under_way.get(plain["member"])
            if episode is None or record["epoch"] != episode[-1].epoch + 1:
                episode = under_way[plain["member"]] = []
                episodes.append(episode)
            episode.append(_report(plain, record["epoch"], max_epochs, episode[-1] if episode else None, place))
    return episodes


def _max_epochs(path: Path) -> int:
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LearnerError(f"{path} cannot be read ({error}); it says how long the run's episodes are.") from error
    _check(run, {"max_epochs": int}, str(path))
    return int(run["max_epochs"])


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where a record is, and the record."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            if not line.endswith(b"\n"):
                return  # a run that was killed, or is writing at this moment
            try:
                record = json.loads(line)
            except ValueError as error:
                raise LearnerError(f"{where}: found no JSON ({error}); expected one record a line.") from error
            if not isinstance(record, dict) or record.get("schema") != SCHEMA:
                found = f"schema {record.get('schema')}" if isinstance(record, dict) else type(record).__name__
                raise LearnerError(
                    f"{where}: found {found}; expected schema {SCHEMA}. Record the run anew with this version of esper."
                )
            yield where, record


def _check(plain: Any, expected: Mapping[str, Any], where: str) -> None:
    if not isinstance(plain, dict):
        raise LearnerError(f"{where}: found {type(plain).__name__}; expected an object.")
    for name, kind in expected.items():
        if name not in plain:
            raise LearnerError(
                f"{where}: found no {name!r}; expected one in every record of schema {SCHEMA}. Record the run anew "
                "with this version of esper."
            )
        value = plain[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            wanted = "/".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
            raise LearnerError(f"{where}: found {name}={str(value)[:40]!r}; expected {wanted}.")


def _report(
    plain: Mapping[str, Any], epoch: int, max_epochs: int, before: EpochReport | None, where: str
) -> EpochReport:
    accuracy = _number(plain["val_accuracy"])
    slots = {name: _seed(name, slot, f"{where}, slot {name!r}") for name, slot in plain["slots"].items()}
    return EpochReport(
        member=plain["member"],
        epoch=epoch,
        max_epochs=max_epochs,
        train_loss=_number(plain["train_loss"]),
        train_accuracy=_number(plain["train_accuracy"]),
        val_loss=_number(plain["val_loss"]),
        val_accuracy=accuracy,
        best_val_accuracy=max(accuracy, before.best_val_accuracy if before else 0.0),
        parameter_count=plain["parameter_count"],
        flops_per_sample=plain["flops_per_sample"],
        slots=slots,
        rolled_back=plain["rolled_back"],
        rollbacks=plain["rolled_back"] + (before.rollbacks if before else 0),
        retired=plain["retired"],
        is_twin=plain["is_twin"],
        action=_action(plain["action"], f"{where}, action"),
        is_refused=plain["action"]["is_refused"],
    )


def _action(plain: Mapping[str, Any], where: str) -> Action:
    _check(plain, _ACTION, where)
    known = Operation.__members__
    if plain["operation"] not in known:
        raise LearnerError(f"{where}: found operation {plain['operation']!r}; expected one of {', '.join(known)}.")
    return Action(known[plain["operation"]], plain["slot"], plain["blueprint"], plain["blend"])


def _seed(slot: str, plain: Mapping[str, Any], where: str) -> SeedStateReport:
    _check(plain, _SLOT, where)
    if plain["stage_value"] not in set(SeedStage):
        raise LearnerError(f"{where}: found stage_value={plain['stage_value']}; expected a stage's value.")
    values = {_SEED_NAMES.get(name, name): plain[name] for name in _SLOT}
    known = {"stage": SeedStage(plain["stage_value"]), "improvement": _number(plain["improvement"])}
    return SeedStateReport(**values | known, slot_id=slot)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)

"""What a run wrote down, as the reports that its controller saw."""

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from esper.errors import FormatError, LearnerError
from esper.files import Line, misfit, read_jsonl, read_object
from esper.files.records import ACTION, EPOCH, MEMBER, METRICS_FILE, RUN, RUN_FILE, SCORES, SLOT
from esper.leyline import Action, EpochReport, Operation, SeedStage, SeedStateReport, recorded_kind

SCHEMA = 2  # of metrics.jsonl

RecordedEpisode = list[EpochReport]  # one member's reports from epoch 0 on

_NEEDED = {"epoch", "members", "slots", *MEMBER, *ACTION, *SLOT} - {"twin_of", "stage", *SCORES}
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


def read_episodes(run_dir: str | os.PathLike[str]) -> list[RecordedEpisode]:
    """The reports of every member of a run, member by member, in order; figures that are not known are NaN.

    A line that was never finished ends the file. Raises LearnerError naming file, line, what was found and what was
    expected, for another schema, a missing field or a value of another type.
    """
    run_dir = Path(run_dir)
    max_epochs = _max_epochs(run_dir / RUN_FILE)
    under_way: dict[int, RecordedEpisode] = {}
    episodes: list[RecordedEpisode] = []
    for where, record in _lines(run_dir / METRICS_FILE):
        for plain in record["members"]:
            place = f"{where}: member {plain['member']}"
            episode = under_way.get(plain["member"])
            if episode is None or record["epoch"] != episode[-1].epoch + 1:
                episode = under_way[plain["member"]] = []
                episodes.append(episode)
            episode.append(_report(plain, record["epoch"], max_epochs, episode[-1] if episode else None, place))
    return episodes


def _max_epochs(path: Path) -> int:
    try:
        return int(read_object(path, RUN, {"max_epochs"})["max_epochs"])
    except (OSError, FormatError) as error:
        raise LearnerError(f"{path} cannot be read ({error}); it says how long the run's episodes are.") from error


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where a record is, and the record."""
    for line in _read(path):
        where = f"{path}, line {line.number}"
        if line.data and not line.data.endswith(b"\n"):
            return  # a run that was killed, or is writing at this moment
        if line.record is None:
            raise LearnerError(f"{where}: {line.problem}; expected one record a line.")
        found = line.record.get("schema")
        problem = misfit(line.record, EPOCH, _NEEDED) if found == SCHEMA else f"found schema {str(found)[:40]}"
        if problem:
            raise LearnerError(
                f"{where}: {problem}; expected schema {SCHEMA}. Record the run anew with this version of esper."
            )
        yield where, line.record


def _read(path: Path) -> Iterator[Line]:
    try:
        yield from read_jsonl(path)
    except OSError as error:
        raise LearnerError(f"{path} cannot be read ({error.strerror}); expected one record a line.") from error


def _report(
    plain: Mapping[str, Any], epoch: int, max_epochs: int, before: EpochReport | None, where: str
) -> EpochReport:
    kind = recorded_kind(plain)
    for name in (f"train_{kind.name}", f"val_{kind.name}"):
        if name not in plain:
            raise LearnerError(f"{where}: there is no {name!r}; expected a line as this version of esper writes it.")
    score = _number(plain[f"val_{kind.name}"])
    slots = {name: _seed(name, slot, f"{where}, slot {name!r}") for name, slot in plain["slots"].items()}
    return EpochReport(
        member=plain["member"],
        epoch=epoch,
        max_epochs=max_epochs,
        train_loss=_number(plain["train_loss"]),
        train_accuracy=_number(plain[f"train_{kind.name}"]),
        val_loss=_number(plain["val_loss"]),
        val_accuracy=score,
        val_rmse=_number(plain.get("val_rmse")),
        best_val_accuracy=max(score, before.best_val_accuracy if before else kind.least),
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
    known = Operation.__members__
    if plain["operation"] not in known:
        raise LearnerError(f"{where}: found operation {plain['operation']!r}; expected one of {', '.join(known)}.")
    return Action(known[plain["operation"]], plain["slot"], plain["blueprint"], plain["blend"])


def _seed(slot: str, plain: Mapping[str, Any], where: str) -> SeedStateReport:
    if plain["stage_value"] not in set(SeedStage):
        raise LearnerError(f"{where}: found stage_value={plain['stage_value']}; expected a stage's value.")
    values = {_SEED_NAMES.get(name, name): plain[name] for name in SLOT if name != "stage"}
    known = {"stage": SeedStage(plain["stage_value"]), "improvement": _number(plain["improvement"])}
    return SeedStateReport(**values | known, slot_id=slot)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)

"""phase.json: what a phase's folder says of itself; free of torch."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from esper.errors import ForgeError, FormatError
from esper.files import read_object, write_atomic
from esper.files.records import CONFIG_FILE, RUN_FILE
from esper.files.shapes import ANY, AllBut, Among
from esper.forge.config import PLACES
from esper.forge.continuity import Measured
from esper.forge.phase import BOUNDS, MODEL, Gate, PhaseResult
from esper.nissa.hub import finite

PHASE_FILE = "phase.json"
POLICY = "forge"  # what such a run is filed under
SCHEMA_VERSION = 1
_LEVELS_ABOVE = 4  # a bundle lies so deep below its run, at the most
RESULT = {
    "success": bool,
    "phase": str,
    "error": (str, None),
    "metrics": {ANY: (float, None)},
    "artifacts": {ANY: str},
    "duration_s": float,
    "gates": [{"metric": str, "bound": Among(*BOUNDS), "value": float}],
}
MEASURED = {ANY: (float, None)}
PHASE = {
    "schema": int,
    "phase": str,
    "status": Among("running", "finished", "failed"),
    "key": str,
    "input": (str, None),
    "result": (RESULT, None),
    "continuity": (MEASURED, None),
    "notes": [str],
}


@dataclass(frozen=True, slots=True)
class PhaseRecord:
    """What phase.json of a phase's folder says. key: of all that its result follows from."""

    folder: Path
    phase: str
    status: str
    key: str
    input: str | None
    result: PhaseResult | None = None
    continuity: Measured | None = None
    notes: tuple[str, ...] = ()

    def write(self) -> "PhaseRecord":
        """Write it down; artifacts by their paths from the folder, so that it can be moved."""
        plain = {
            "schema": SCHEMA_VERSION,
            "phase": self.phase,
            "status": self.status,
            "key": self.key,
            "input": self.input,
            "result": None if self.result is None else _relative(asdict(self.result), self.folder),
            "continuity": None if self.continuity is None else dict(self.continuity),
            "notes": list(self.notes),
        }
        text = json.dumps(finite(plain), indent=1, ensure_ascii=False, allow_nan=False)
        write_atomic(self.folder / PHASE_FILE, text.encode() + b"\n")
        return self


def read_phase(folder: Path) -> PhaseRecord | None:
    """None where no phase has begun in this folder, or its record cannot be read."""
    try:
        plain = read_object(folder / PHASE_FILE, PHASE, AllBut("gates"))
    except (OSError, FormatError):
        return None
    if plain["schema"] != SCHEMA_VERSION:
        return None
    found = plain["result"]
    if found is not None:
        artifacts = {name: str(folder / path) for name, path in found["artifacts"].items()}
        metrics = {name: math.nan if value is None else value for name, value in found["metrics"].items()}
        gates = tuple(Gate(gate["metric"], gate["bound"], gate["value"]) for gate in found.get("gates", ()))
        found = PhaseResult(**found | {"artifacts": artifacts, "metrics": metrics, "gates": gates})
    return PhaseRecord(
        folder, plain["phase"], plain["status"], plain["key"], plain["input"], found, plain["continuity"],
        tuple(plain["notes"]),
    )  # fmt: skip


def phase_folder(run: Path, name: str) -> Path:
    """Where a run keeps a phase."""
    return run / f"{PLACES[name]}-{name}"


def read_phases(run: Path) -> list[PhaseRecord]:
    """The phases that have begun in a run's folder, in order."""
    found = (read_phase(phase_folder(run, name)) for name in PLACES)
    return [record for record in found if record is not None]


def is_forge_run(folder: Path) -> bool:
    """Whether the run in this folder is the forge's."""
    try:
        options = read_object(folder / RUN_FILE).get("options")
    except (OSError, FormatError):
        options = None
    return bool(isinstance(options, dict) and options.get("policy") == POLICY) or bool(read_phases(folder))


def input_folder(given: Path, before: str | None = None) -> Path:
    """`passed_folder`. Raises: ForgeError where there is none."""
    if folder := passed_folder(given, before):
        return folder
    raise ForgeError(
        f"input={given}: there is no {MODEL}.safetensors with its {MODEL}.json, and no phase that was passed\n"
        "  expected the folder of a forge run, or of one of its phases"
    )


def passed_folder(given: Path, before: str | None = None) -> Path | None:
    """The folder of bundles that a run, a phase's folder or a bundle stands for; None where they hold no model.

    before: of a run, the last phase is meant that was passed before this one; else the last of all.
    """
    names = [name for name in PLACES if before is None or PLACES[name] < PLACES[before]]
    records = [read_phase(phase_folder(given, name)) for name in names]
    passed = [record for record in records if record is not None and record.status == "finished"]
    if passed:
        return passed[-1].folder
    if (given / f"{MODEL}.json").exists():
        return given
    if given.stem == MODEL and given.with_suffix(".json").exists():
        return given.parent
    return None


def run_above(bundle: Path) -> Path | None:
    """The folder of the forge run that a bundle lies in, with its config.yaml; None where it lies in none."""
    above = bundle.absolute().parents[:_LEVELS_ABOVE]
    return next((folder for folder in above if (folder / CONFIG_FILE).is_file() and is_forge_run(folder)), None)


def _relative(result: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    artifacts = {name: os.path.relpath(path, folder) for name, path in result["artifacts"].items()}
    return {**result, "artifacts": artifacts}

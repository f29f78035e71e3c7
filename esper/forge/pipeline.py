"""Phases in their order: what is done is not done again, what has become stale is, and what fails is rolled back."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from esper.checkpoint import fingerprint
from esper.errors import ForgeError, FormatError
from esper.files import fitting, read_object, write_atomic
from esper.files.shapes import ANY, Among
from esper.forge.config import OPTIONAL, PLACES, ForgeConfig
from esper.forge.continuity import Measured, measure_bundle
from esper.forge.phase import PHASES, Phase, PhaseContext, PhaseResult

PHASE_FILE = "phase.json"
SCHEMA_VERSION = 1
RESULT = {
    "success": bool,
    "phase": str,
    "error": (str, None),
    "metrics": {ANY: (float, None)},
    "artifacts": {ANY: str},
    "duration_s": float,
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
        """Write it down; what a name leads out of the run's folder is kept as it is, all else relative to it."""
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
        text = json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False)
        write_atomic(self.folder / PHASE_FILE, text.encode() + b"\n")
        return self


def read_phase(folder: Path) -> PhaseRecord | None:
    """None where no phase has begun in this folder, or its record cannot be read."""
    try:
        plain, problems = fitting(read_object(folder / PHASE_FILE), PHASE)
    except (OSError, FormatError):
        return None
    if problems or plain.get("schema") != SCHEMA_VERSION:
        return None
    found = plain["result"]
    if found is not None:
        found = PhaseResult(**{**found, "artifacts": {k: str(folder / v) for k, v in found["artifacts"].items()}})
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


def input_folder(given: Path) -> Path:
    """The folder of bundles that a run, a phase's folder or a bundle stands for. Raises ForgeError."""
    passed = [record for record in read_phases(given) if record.status == "finished"]
    if passed:
        return passed[-1].folder
    if (given / "model.json").exists():
        return given
    if given.with_suffix("").name == "model" and given.with_suffix(".json").exists():
        return given.parent
    raise ForgeError(
        f"input={given}: there is no model.safetensors with its model.json, and no phase that was passed\n"
        "  expected the folder of a forge run, or of one of its phases"
    )


class Pipeline:
    """The phases of a configuration, in a run's folder.

    Args:
        make_context: phase's name -> what it is handed.
        tell: gets sentences for people.
    """

    def __init__(
        self,
        config: ForgeConfig,
        folder: Path,
        make_context: Callable[[str], PhaseContext],
        tell: Callable[[str], None],
    ) -> None:
        self._config, self._folder, self._make_context, self._tell = config, folder, make_context, tell

    def run(self, on_phase: Callable[[PhaseRecord], None]) -> PhaseRecord | None:
        """Run what is not done; None, or the phase whose failed gate ended the way.

        on_phase: is told each phase that is over. Raises Interrupted, and EsperError on bad input.
        """
        config = self._config
        sound = None if config.input is None else input_folder(Path(config.input))
        is_stale = False
        for name in config.way:
            folder = phase_folder(self._folder, name)
            key, known = self.key(name, sound), read_phase(folder)
            if known is None or known.key != key or known.status == "running" or is_stale:
                if known is not None and known.key != key:
                    self._tell(f"{name} is stale: its configuration or its input has changed; it is run anew")
                    is_stale = True
                    _move_aside(folder)
                elif is_stale and known is not None:
                    _move_aside(folder)
                known = self._run_phase(name, folder, sound, key)
            assert known.result is not None
            on_phase(known)
            if known.result.success:
                sound = folder
            elif name in OPTIONAL:
                self._tell(f"{name} failed its gates, and the way goes on without it: {known.result.error}")
            else:
                return known
        return None

    def key(self, name: str, sound: Path | None) -> str:
        """Of all that a phase's result follows from."""
        config = self._config
        decides = {
            "phase": name,
            "config": asdict(getattr(config, name)),
            "model": asdict(config.model),
            "corpus": asdict(config.corpus),
            "tokenizer": config.tokenizer,
            "seed": config.seed,
            "controls": config.controls,
            "input": None if sound is None else _sidecars(sound),
        }
        return fingerprint(decides)

    def _run_phase(self, name: str, folder: Path, sound: Path | None, key: str) -> PhaseRecord:
        context = self._make_context(name)
        phase: Phase = PHASES.build(getattr(self._config, name), name, context=context)
        phase.check(sound)
        folder.mkdir(parents=True, exist_ok=True)
        record = PhaseRecord(folder, name, "running", key, None if sound is None else str(sound)).write()
        result = phase.run(sound, folder)
        measured = measure_bundle(folder, context)
        context.log(0, **result.metrics)
        return PhaseRecord(
            folder, name, "finished" if result.success else "failed", key, record.input, result, measured,
            tuple(context.notes),
        ).write()  # fmt: skip


def _sidecars(folder: Path) -> dict[str, Any]:
    """What tells one folder of bundles from another: every sidecar has its tensors' checksum."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        if path.name != PHASE_FILE:
            found[path.name] = read_object(path).get("tensors_sha256")
    return found


def _move_aside(folder: Path) -> None:
    """Nothing is lost: the folder gets a number behind its name."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    os.rename(folder, aside)


def _relative(result: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    artifacts = {name: os.path.relpath(path, folder) for name, path in result["artifacts"].items()}
    return {**result, "artifacts": artifacts}

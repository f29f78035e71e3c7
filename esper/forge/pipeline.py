"""Phases in their order: what is done is not done again, what has become stale is, and what fails is rolled back."""

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from esper.checkpoint import fingerprint
from esper.files import read_object
from esper.forge.config import OPTIONAL, ForgeConfig
from esper.forge.measuring import measure_bundle
from esper.forge.phase import PHASES, Phase, PhaseContext
from esper.forge.records import PHASE_FILE, PhaseRecord, input_folder, phase_folder, read_phase


class Pipeline:
    """The phases of a configuration, in a run's folder.

    Args:
        make_context: phase's name -> what it is handed.
        begin: is told the phase that is to run, once its input has been found to be in order, and whether it goes on
            from where it was stopped.
        tell: gets sentences for people.
    """

    def __init__(
        self,
        config: ForgeConfig,
        folder: Path,
        make_context: Callable[[str], PhaseContext],
        begin: Callable[[str, bool], None],
        tell: Callable[[str], None],
    ) -> None:
        self._config, self._folder, self._make_context = config, folder, make_context
        self._begin, self._tell = begin, tell

    def run(self, on_phase: Callable[[PhaseRecord], None]) -> PhaseRecord | None:
        """Run what is not done; None, or the phase whose failed gate ended the way.

        on_phase: is told each phase that is over. Raises Interrupted, and EsperError on bad input.
        """
        config = self._config
        sound = None if config.input is None else input_folder(Path(config.input))
        for name in config.way:
            folder = phase_folder(self._folder, name)
            key, known = self.key(name, sound), read_phase(folder)
            if known is not None and known.key != key:
                self._tell(f"{name} is stale: its configuration or its input has changed; it is run anew")
                known = None
                _move_aside(folder)
            if known is None or known.status == "running":
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
        self._begin(name, folder.exists())
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

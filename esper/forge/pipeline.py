"""Phases in their order: what is done is not done again, what has become stale is, and what fails is rolled back."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from esper.checkpoint import fingerprint, read_bundle
from esper.errors import CheckpointError, ForgeError, first_line
from esper.files.opening import make_folder
from esper.forge.config import OPTIONAL, ForgeConfig
from esper.forge.measuring import MODEL, measure_bundle
from esper.forge.phase import PHASES, Phase, PhaseContext, PhaseResult
from esper.forge.records import PhaseRecord, input_folder, phase_folder, read_phase


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
        sound = None if config.input is None else input_folder(Path(config.input), before=config.way[0])
        bundles = None if sound is None else bundle_checksums(sound)
        for name in config.way:
            folder = phase_folder(self._folder, name)
            key, known = self.key(name, bundles), read_phase(folder)
            goes_on = known is not None and known.key == key
            result = known.result if known is not None and goes_on and known.status != "running" else None
            if known is None or result is None:
                known, result = self._run_phase(name, folder, sound, key, goes_on)
            on_phase(known)
            if result.success:
                sound, bundles = folder, self._verified(name, folder)
            elif name in OPTIONAL:
                self._tell(f"{name} failed its gates, and the way goes on without it: {result.error}")
            else:
                return known
        return None

    def key(self, name: str, bundles: Mapping[str, str] | None) -> str:
        """Of all that a phase's result follows from. bundles: the checksums of those that it reads."""
        config = self._config
        decides = {
            "phase": name,
            "config": asdict(getattr(config, name)),
            "model": asdict(config.model),
            "corpus": asdict(config.corpus),
            "tokenizer": config.tokenizer,
            "seed": config.seed,
            "controls": config.controls,
            "input": bundles,
        }
        return fingerprint(decides)

    def _run_phase(
        self, name: str, folder: Path, sound: Path | None, key: str, goes_on: bool
    ) -> tuple[PhaseRecord, PhaseResult]:
        context = self._make_context(name)
        phase: Phase = PHASES.build(getattr(self._config, name), name, context=context)
        phase.check(sound)
        if not goes_on and (aside := _move_aside(folder)):  # once it is known that the phase can run
            self._tell(
                f"{name} is stale, or its phase.json damaged; it is run anew, and what it was is in {aside.name}"
            )
        self._begin(name, goes_on)
        make_folder(folder)
        record = PhaseRecord(folder, name, "running", key, None if sound is None else str(sound)).write()
        result = phase.run(sound, folder)
        measured = measure_bundle(folder, context)
        context.log(0, **result.metrics)
        record = PhaseRecord(
            folder, name, "finished" if result.success else "failed", key, record.input, result, measured,
            tuple(context.notes),
        ).write()  # fmt: skip
        return record, result

    def _verified(self, name: str, folder: Path) -> dict[str, str]:
        try:
            return bundle_checksums(folder)
        except CheckpointError as error:
            hint = f"to have {name} run anew, move its folder away: mv {folder} {folder}.damaged"
            raise ForgeError(f"{first_line(error)}\n  {hint}") from error


def bundle_checksums(folder: Path) -> dict[str, str]:
    """What tells one folder of bundles from another. Raises CheckpointError where one is damaged."""
    paths = {folder / f"{MODEL}.safetensors", *folder.glob("*.safetensors")}
    return {path.with_suffix(".json").name: read_bundle(path).sidecar["tensors_sha256"] for path in sorted(paths)}


def _move_aside(folder: Path) -> Path | None:
    """Nothing is lost: what is there gets a number behind its name, which is answered."""
    if not os.path.lexists(folder) or (not folder.is_symlink() and folder.is_dir() and not any(folder.iterdir())):
        return None
    number = 1
    while os.path.lexists(aside := folder.with_name(f"{folder.name}.{number}")):
        number += 1
    os.rename(folder, aside)
    return aside

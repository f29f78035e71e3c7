"""What a language model is made of and comes from: its card, its parents, its tensors, and the phases of its run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from esper.checkpoint import read_bundle
from esper.checkpoint.bundle import bundle_paths
from esper.checkpoint.sidecar import read_sidecar
from esper.errors import CheckpointError, EsperError, first_line
from esper.forge.anatomy import Anatomy, anatomy
from esper.forge.ancestry import Ancestor, ancestors
from esper.forge.card import ModelCard
from esper.forge.continuity import Measured
from esper.forge.phase import MODEL
from esper.forge.records import PhaseRecord, read_phases, run_above


@dataclass(frozen=True, slots=True)
class PhaseEffect:
    """What a phase did.

    gates: metric -> was it passed. figures: name -> (as measured, change since the last phase before it that passed).
    """

    phase: str
    status: str
    error: str | None
    gates: Mapping[str, bool]
    figures: Mapping[str, tuple[float | None, float | None]]
    notes: Sequence[str]


@dataclass(frozen=True, slots=True)
class Examination:
    """Of one bundle, whose checksums hold. phases: of the run that it lies in, in order."""

    model: str
    card: ModelCard
    ancestors: Sequence[Ancestor]
    anatomy: Anatomy
    phases: Sequence[PhaseEffect]

    def plain(self) -> dict[str, Any]:
        """As JSON has it; without the canary, which is for whoever loads the model."""
        card = {name: value for name, value in asdict(self.card).items() if name != "canary"}
        found = [asdict(each) | {"path": str(each.path)} for each in self.ancestors]
        phases = [asdict(phase) for phase in self.phases]
        return {"model": self.model, "card": card, "ancestors": found, "phases": phases, **asdict(self.anatomy)}


def examine(bundle: Path) -> Examination:
    """Read a bundle, given without suffix, and all that it comes from. Raises: CheckpointError where it is unsound."""
    checkpoint = read_bundle(bundle)
    try:
        card = ModelCard.of(checkpoint)
        made_of = anatomy(bundle, card, checkpoint)
    except EsperError as error:
        raise CheckpointError(f"{bundle}: {first_line(error)}") from error
    run = run_above(bundle)
    phases = [] if run is None else list(_effects(read_phases(run)))
    return Examination(str(bundle), card, list(ancestors(bundle, card)), made_of, phases)


def _effects(records: Sequence[PhaseRecord]) -> Iterator[PhaseEffect]:
    before: Measured = {}
    for record in records:
        measured = record.continuity or {}
        figures = {name: (value, _change(before.get(name), value)) for name, value in measured.items()}
        error = record.result.error if record.result else None
        yield PhaseEffect(record.phase, record.status, error, _gates(record.folder), figures, record.notes)
        before = measured if record.status == "finished" else before


def _change(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _gates(folder: Path) -> Mapping[str, bool]:
    """As the card of what the phase passed on has them; none where it has none that can be read."""
    try:
        found = read_sidecar(bundle_paths(folder / MODEL)[1])["metadata"].get("gates")
    except CheckpointError:
        return {}
    return found if isinstance(found, dict) else {}

"""Where a model comes from: its parents by their cards, back to what was trained from nothing."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from esper.checkpoint import read_bundle
from esper.checkpoint.bundle import bundle_paths
from esper.errors import CheckpointError, first_line
from esper.forge.card import ModelCard

VERIFIED, MISSING, CHANGED = "verified", "missing", "another by now"


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A parent, or a parent's parent.

    generation: 1 for parents. state: VERIFIED, where all its bytes are those of the checksum that its child has of it;
    MISSING; CHANGED; or why it cannot be read. phase: that made it, as far as it is known. is_known: it was met before,
    and its own parents with it.
    """

    path: Path
    relation: str
    sha256: str
    generation: int
    state: str
    phase: str | None = None
    is_known: bool = False


def ancestors(bundle: Path, card: ModelCard) -> Iterator[Ancestor]:
    """All that a bundle of this card comes from, each before its own parents."""
    yield from _ancestors(bundle.absolute(), card, 1, set())


def _ancestors(bundle: Path, card: ModelCard, generation: int, met: set[Path]) -> Iterator[Ancestor]:
    for known in card.parents:
        path = Path(os.path.normpath(bundle.parent / known["path"])).with_suffix("")
        state, found = _look(path, known["sha256"])
        is_known = path in met
        phase = None if found is None else found.phase
        yield Ancestor(path, known["relation"], known["sha256"], generation, state, phase, is_known)
        met.add(path)
        if found is not None and not is_known:
            yield from _ancestors(path, found, generation + 1, met)


def _look(path: Path, sha256: str) -> tuple[str, ModelCard | None]:
    """What became of a parent; its card where it is what it was."""
    try:
        if not any(file.exists() for file in bundle_paths(path)):
            return MISSING, None
        checkpoint = read_bundle(path)
        if checkpoint.sidecar["tensors_sha256"] != sha256:
            return CHANGED, None
        return VERIFIED, ModelCard.of(checkpoint)
    except (CheckpointError, OSError, ValueError) as error:  # the last two of a name that no file can have
        return first_line(error), None

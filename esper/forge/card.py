"""The model card: what a bundle says of its model beside the tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from esper.checkpoint import Checkpoint
from esper.errors import CheckpointError, ForgeError
from esper.files.shapes import ANY, misfit
from esper.forge.lessons import Lesson

if TYPE_CHECKING:
    from esper.tasks.text.tokenizer import Tokenizer

KIND = "language_model"
MOST_LESSONS = 100  # each is measured on every model that comes after it
_FIELDS: dict[str, Any] = {
    "phase": str,
    "format": str,
    "tokenizer": dict,
    "data_fingerprint": str,
    "seed": int,
    "parents": list,
    "gates": dict,
    "canary": dict,
    "quantizer": (dict, type(None)),
    "lessons": list,
}
_PARENTS = {"parents": [{"path": str, "sha256": str, "relation": str}]}


def check_parents(metadata: Mapping[str, Any]) -> None:
    """Raise CheckpointError where what a bundle comes from is not told as a card tells it."""
    if problem := misfit(dict(metadata), _PARENTS):
        raise CheckpointError(f"its model card is malformed: {problem}")


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """Where a model comes from, what it is made of, and what shows that it is the one that was saved.

    phase: that made it. architecture: see `esper.forge.architectures`. tokenizer: {name, sha256}. data_fingerprint: of
    the corpus. parents: [{path, sha256, relation}], see `parent`. metrics: as measured by the phase. gates: of what its
    phase passes on, metric -> whether it kept its bound, see `esper.forge.phase.conclude`. canary: see
    `esper.forge.canary`. format: how the tensors become a network, see `esper.forge.bundles`. quantizer: how its
    weights are to be quantised by whoever trains them on, or None. lessons: what it was taught beside text, see
    `esper.forge.lessons`.
    """

    phase: str
    architecture: dict[str, Any]
    tokenizer: dict[str, str]
    data_fingerprint: str
    seed: int
    parents: list[dict[str, str]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    gates: dict[str, bool] = field(default_factory=dict)
    canary: dict[str, Any] = field(default_factory=dict)
    format: str = "plain"
    quantizer: dict[str, Any] | None = None
    lessons: tuple[Lesson, ...] = ()

    def check_tokenizer(self, tokenizer: "Tokenizer", where: str) -> None:
        """Raise ForgeError where the model reads by another tokenizer than this."""
        if self.tokenizer["sha256"] != tokenizer.sha256:
            name = self.tokenizer["name"]
            raise ForgeError(
                f"{where} reads by the tokenizer {name}, this run by {tokenizer.name}\n"
                f"  to go on with it: tokenizer={name}"
            )

    def checkpoint(self, tensors: Mapping[str, Any]) -> Checkpoint:
        """What is written: the architecture is the checkpoint's configuration, the rest its metadata."""
        metadata = {name: getattr(self, name) for name in _FIELDS}
        metadata["lessons"] = [lesson.plain() for lesson in self.lessons]
        return Checkpoint(
            tensors=tensors, kind=KIND, config=self.architecture, metrics=dict(self.metrics), metadata=metadata
        )

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "ModelCard":
        """The card that was read. Raises: CheckpointError where the checkpoint is of another kind, or lacks a field."""
        if checkpoint.kind != KIND:
            raise CheckpointError(f"it is a checkpoint of kind {checkpoint.kind!r}, and no language model")
        given = {"lessons": [], **checkpoint.metadata}  # cards from before there were lessons lack the key
        for name, kind in _FIELDS.items():
            if not isinstance(given.get(name, ...), kind):
                raise CheckpointError(f"its model card lacks {name!r}, or has another type there")
        check_parents(given)
        if problem := misfit(given, {"gates": {ANY: bool}}):
            raise CheckpointError(f"its model card is malformed: {problem}")
        if (count := len(given["lessons"])) > MOST_LESSONS:
            raise CheckpointError(f"its model card has {count} lessons; at most {MOST_LESSONS} are read")
        tokenizer = given["tokenizer"]
        if not all(isinstance(tokenizer.get(key), str) for key in ("name", "sha256")):
            raise CheckpointError("its model card names no tokenizer with a sha256")
        own = {name: given[name] for name in _FIELDS} | {"lessons": tuple(map(Lesson.of, given["lessons"]))}
        metrics = {name: value for name, value in checkpoint.metrics.items() if value is not None}
        return cls(architecture=checkpoint.config, metrics=metrics, **own)

"""What a phase is handed to train on, and what it passes on: a plain model, or a ternary one by its masters."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from esper.checkpoint.bundle import bundle_paths
from esper.checkpoint.sidecar import read_sidecar
from esper.errors import ForgeError
from esper.forge.bitnet.bundle import TERNARY
from esper.forge.bitnet.packing import pack_network, round_embedding
from esper.forge.bitnet.quantizer import quantize_layers
from esper.forge.bundles import load_language_model, parent, save_language_model
from esper.forge.card import ModelCard, check_parents
from esper.forge.lessons import Lesson
from esper.forge.phase import MASTERS, MODEL, PhaseContext


@dataclass(frozen=True, slots=True)
class Trainable:
    """A model on its way through a phase.

    network: trains as it is in use: where the model is ternary, its masters through the quantiser. card: of the bundle
    that it was read from, `source` (without suffix).
    """

    network: Any
    card: ModelCard
    source: Path

    @classmethod
    def load(cls, folder: Path, context: PhaseContext, phase: str) -> "Trainable":
        """What an earlier phase left in a folder. Raises: ForgeError where nothing there can be trained on."""
        source = masters_of(folder) or folder / MODEL
        model = load_language_model(source)
        model.card.check_tokenizer(context.tokenizer, f"{phase}: {folder}")
        if model.card.format != "plain":
            raise ForgeError(
                f"{phase}: {folder} holds a model of format {model.card.format}, which is for use alone\n"
                f"  expected a plain model, or {MASTERS}.safetensors beside a packed one"
            )
        network = model.host if model.card.quantizer is None else quantize_layers(model.host)
        return cls(network, model.card, source)

    @property
    def lessons(self) -> tuple[Lesson, ...]:
        """What the model was taught before."""
        return self.card.lessons

    def copy(self) -> "Trainable":
        """The same, with weights of its own."""
        return Trainable(copy.deepcopy(self.network), self.card, self.source)

    def in_use(self) -> nn.Module:
        """A copy that computes what the written model will: its embedding is rounded, too."""
        network = copy.deepcopy(self.network).eval()
        if self.card.quantizer is not None:
            round_embedding(network, self.card.quantizer["embedding"])  # the layers quantise themselves already
        return network

    def save(
        self,
        path: Path,
        context: PhaseContext,
        phase: str,
        metrics: Mapping[str, float] | None = None,
        taught: Sequence[Lesson] = (),
    ) -> dict[str, Path]:
        """Write the model as `path`, for use; where it is ternary, its masters in the same folder.

        Args: path: without a suffix; masters beside it are called `masters` beside `model`, else `NAME-masters`.
        taught: what the phase has added to the lessons. Returns: artifacts, name -> path.
        """
        quantizer = self.card.quantizer
        given: dict[str, Any] = {
            "phase": phase,
            "seed": context.seed,
            "data_fingerprint": context.corpus.fingerprint,
            "metrics": metrics,
            "lessons": (*self.lessons, *taught),
            "quantizer": quantizer,
        }
        before = parent(self.source, "before")
        if quantizer is None:
            return {path.name: save_language_model(path, self.network, context.tokenizer, parents=[before], **given)}
        beside = path.with_name(MASTERS if path.name == MODEL else f"{path.name}-{MASTERS}")
        masters = save_language_model(beside, self.network, context.tokenizer, parents=[before], **given)
        packed = pack_network(self.network, quantizer["embedding"])
        written = save_language_model(
            path,
            self.network,
            context.tokenizer,
            parents=[before, parent(masters, MASTERS)],
            format=TERNARY,
            tensors=packed,
            **given,
        )
        return {path.name: written, beside.name: masters}


def masters_of(folder: Path) -> Path | None:
    """The masters beside a folder's `model`, without suffix; None where there are none.

    Raises: ForgeError where they are another model's. CheckpointError where a sidecar is altered.
    """
    if not bundle_paths(folder / MASTERS)[1].exists():
        return None
    card = read_sidecar(bundle_paths(folder / MODEL)[1])["metadata"]
    check_parents(card)
    named = [each["sha256"] for each in card["parents"] if each["relation"] == MASTERS]
    if named and parent(folder / MASTERS, MASTERS)["sha256"] not in named:
        raise ForgeError(f"{folder}: its masters are not those that its model was packed from; put these back")
    return folder / MASTERS

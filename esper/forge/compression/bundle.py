"""Format "compressed": a bundle whose one tensor holds all others, each as its codec wrote it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from esper.errors import CheckpointError
from esper.forge.bundles import FORMATS, save_language_model
from esper.forge.card import ModelCard
from esper.forge.compression.container import KEY, decompress
from esper.forge.language_model import LanguageModel

FORMAT = "compressed"


@FORMATS.register(FORMAT, ModelCard)
def build_compressed(card: ModelCard, tensors: Mapping[str, Tensor]) -> nn.Module:
    """What the tensors were before they were compressed: a plain network, or one of another format.

    Raises: CheckpointError in a line where they are malformed.
    """
    if tensors.keys() != {KEY}:
        raise CheckpointError(f"a compressed model has one tensor, {KEY!r}; found {', '.join(sorted(tensors))[:80]}")
    format, decoded = decompress(tensors[KEY])
    if format == FORMAT:
        raise CheckpointError("a compressed model within a compressed one is not read")
    return FORMATS.build(replace(card, format=format), format, tensors=decoded)


def save_compressed(
    path: Path, model: LanguageModel, packed: Tensor, *, phase: str, seed: int, parents: list[dict[str, str]]
) -> Path:
    """Write what `container.pack` made of a model's tensors; the path of the file whose size counts."""
    return save_language_model(
        path,
        model,
        model.tokenizer,
        phase=phase,
        seed=seed,
        data_fingerprint=model.card.data_fingerprint,
        parents=parents,
        quantizer=model.card.quantizer,
        lessons=model.card.lessons,
        format=FORMAT,
        tensors={KEY: packed},
    )

"""Language models on disk: `model.safetensors` and `model.json`, written by one phase and read by the next.

A bundle is a checkpoint of `esper.checkpoint` whose sidecar is a model card. Loading verifies checksums, tokenizer and
canary, and runs no code but what is registered here by name.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from esper.checkpoint import module_state, read_bundle, restoring, write_bundle
from esper.checkpoint.bundle import bundle_paths
from esper.checkpoint.sidecar import read_sidecar
from esper.checkpoint.tensors import compare_tensors
from esper.errors import CheckpointError, EsperError, ForgeError, first_line
from esper.forge.architectures import build_network
from esper.forge.canary import check_canary, take_canary
from esper.forge.card import ModelCard
from esper.forge.language_model import LanguageModel
from esper.forge.lessons import Lesson
from esper.forge.phase import MODEL
from esper.registry import Registry
from esper.tasks.text.tokenizer import Tokenizer, get_tokenizer

# How the tensors of a bundle become a network: name -> function(card, tensors).
FORMATS: "Registry[ModelCard, nn.Module]" = Registry("format", error=CheckpointError)
FORMATS.declare("ternary", ModelCard, "esper.forge.bitnet.bundle:build_ternary")
FORMATS.declare("routed", ModelCard, "esper.forge.experts.bundle:build_routed")
FORMATS.declare("compressed", ModelCard, "esper.forge.compression.bundle:build_compressed")


@FORMATS.register("plain", ModelCard)
def build_plain(card: ModelCard, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The tensors are the network's own, as they are."""
    network = build_network(card.architecture)
    compare_tensors(network.state_dict(), tensors, "the bundle")
    network.load_state_dict(dict(tensors))
    return network


def save_language_model(
    path: str | os.PathLike[str],
    model: nn.Module,
    tokenizer: Tokenizer,
    *,
    phase: str,
    seed: int,
    data_fingerprint: str,
    parents: Sequence[dict[str, str]] = (),
    metrics: Mapping[str, float] | None = None,
    quantizer: dict[str, Any] | None = None,
    lessons: Sequence[Lesson] = (),
    format: str = "plain",
    tensors: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a language model, whole or not at all; what it is replaces what was there.

    Args:
        path: of the bundle without its suffix, or a folder that is there, for `model` in it.
        model: has `architecture()`, as a `Decoder`; or a `LanguageModel` around it.
        parents: see `parent`.
        quantizer, lessons: see `ModelCard`.
        format, tensors: what is written where that is not the model's own state: see `FORMATS`.

    Returns:
        the path of the tensors.

    Raises: CheckpointError where a value or tensor cannot be stored, or no network comes of what would be written.
    """
    network: Any = model.host if isinstance(model, LanguageModel) else model
    stem = bundle_stem(path)
    card = ModelCard(
        phase=phase,
        format=format,
        architecture=network.architecture(),
        tokenizer={"name": tokenizer.name, "sha256": tokenizer.sha256},
        data_fingerprint=data_fingerprint,
        seed=seed,
        parents=_beside(stem, parents),
        metrics=dict(metrics or {}),
        quantizer=quantizer,
        lessons=tuple(lessons),
    )
    kept = module_state(network)[0] if tensors is None else tensors
    copied = {name: tensor.detach().to("cpu", copy=True) for name, tensor in kept.items()}
    rebuilt = FORMATS.build(card, format, tensors=copied).eval()  # the answer is that of what will be read
    card = replace(card, canary=take_canary(rebuilt, tokenizer.vocab_size))
    stem.parent.mkdir(parents=True, exist_ok=True)
    return write_bundle(stem, card.checkpoint(kept))


def load_language_model(path: str | os.PathLike[str]) -> LanguageModel:
    """Read a language model, on the CPU and ready to predict.

    Args: path: of a bundle (either file, or without suffix), or of the folder whose `model` is meant.

    Raises: CheckpointError, in a line, where a file is missing, altered or cut short, its tokenizer is another by now,
    it says what there is not, or its canary does not reproduce.
    """
    stem = bundle_stem(path)
    checkpoint = read_bundle(stem)
    try:
        card = ModelCard.of(checkpoint)
        tokenizer = _tokenizer(card)
        with restoring(checkpoint):
            network = FORMATS.build(card, card.format, tensors=checkpoint.tensors).eval()
            check_canary(network, card.canary)
    except EsperError as error:
        reason = first_line(error)
        raise CheckpointError(reason if str(stem) in reason else f"{stem}: {reason}") from error
    return LanguageModel(network, tokenizer, card).eval()


def bundle_stem(path: str | os.PathLike[str]) -> Path:
    """The path of a bundle without its suffix, given either file, the stem, or the folder whose `model` is meant."""
    try:
        given = Path(path)
    except TypeError:
        raise ForgeError(f"expected the path of a bundle or of its folder, and got {path!r}") from None
    return given / MODEL if given.is_dir() else bundle_paths(given)[1].with_suffix("")


def parent(path: str | os.PathLike[str], relation: str) -> dict[str, str]:
    """A bundle that a model comes from, for its card. Raises: CheckpointError where there is none."""
    tensors_path, sidecar_path = bundle_paths(bundle_stem(path))
    return {"path": str(tensors_path), "sha256": read_sidecar(sidecar_path)["tensors_sha256"], "relation": relation}


def parent_path(bundle: Path, known: Mapping[str, str]) -> Path | None:
    """Where a parent that the bundle's card names lies; None where it has gone, or is another by now."""
    try:
        path = (bundle.parent / known["path"]).resolve()
        return path if read_sidecar(bundle_paths(path)[1])["tensors_sha256"] == known["sha256"] else None
    except (CheckpointError, OSError, ValueError):  # the last two of a name that no file can have
        return None


def _beside(bundle: Path, parents: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Parents by their paths from the bundle's folder, so that a run can be moved."""
    folder = bundle.parent.resolve()
    return [{**known, "path": os.path.relpath(Path(known["path"]).resolve(), folder)} for known in parents]


def _tokenizer(card: ModelCard) -> Tokenizer:
    name = card.tokenizer["name"]
    tokenizer = get_tokenizer(name)
    if tokenizer.sha256 != card.tokenizer["sha256"]:
        raise CheckpointError(f"its tokenizer was another: {name} has changed since; put the file back that it had")
    return tokenizer

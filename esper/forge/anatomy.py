"""What a language model is made of: its tensors as they are stored, by its parts."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from esper.checkpoint import Checkpoint
from esper.checkpoint.bundle import bundle_paths
from esper.forge.architectures import build_network
from esper.forge.bitnet.trits import unpack_trits
from esper.forge.card import ModelCard
from esper.forge.compression.bundle import FORMAT as COMPRESSED
from esper.forge.compression.codec import decode
from esper.forge.compression.container import KEY, unpack
from esper.forge.compression.symbols import Symbols

PARTS = ("embedding", "attention", "mlp", "norms", "grown", "other")
OVERHEAD = "header"  # of the file: names and shapes
TERNARY = "ternary"  # the codec
_TRITS, _WEIGHT = ".trits", ".weight"


@dataclass(frozen=True, slots=True)
class TensorAnatomy:
    """A tensor as it is stored.

    kind: its dtype, or the codec that wrote it. bytes: it takes in the file. zeros: share of its values. part: see
    `PARTS`. trits: shares of -1, 0 and 1, where that is all there is.
    """

    name: str
    kind: str
    shape: list[int]
    bytes: int
    zeros: float
    part: str
    trits: list[float] | None = None


@dataclass(frozen=True, slots=True)
class Anatomy:
    """tensors: in the order of the file. parts: bytes of each, and of what the file has beside tensors."""

    tensors: list[TensorAnatomy]
    parts: dict[str, int]


def anatomy(bundle: Path, card: ModelCard, checkpoint: Checkpoint) -> Anatomy:
    """Of a bundle that was read. Raises: EsperError where tensors are not such as its card says."""
    shapes = {name: tensor.shape for name, tensor in build_network(card.architecture).state_dict().items()}
    tensors = [
        _anatomy(name, kind, size, tensor, shapes)
        for name, kind, size, tensor in _stored(card.format, checkpoint.tensors, checkpoint.sidecar["aliases"])
    ]
    parts = {part: sum(tensor.bytes for tensor in tensors if tensor.part == part) for part in PARTS}
    parts[OVERHEAD] = bundle_paths(bundle)[0].stat().st_size - sum(parts.values())
    return Anatomy(tensors, {part: size for part, size in parts.items() if size})


def part_of(name: str) -> str:
    """Which part of a decoder a tensor of this name belongs to."""
    words = name.split(".")
    if words[0] == "slots":
        return "grown"
    if any(word.endswith("norm") for word in words):
        return "norms"
    return next((word for word in words if word in ("embedding", "attention", "mlp")), "other")


def _stored(
    format: str, tensors: Mapping[str, Tensor], aliases: Collection[str]
) -> Iterator[tuple[str, str, int, Tensor]]:
    """Name, kind, bytes and values of each; of tied ones, the first."""
    if format != COMPRESSED:
        for name, tensor in tensors.items():
            if name in aliases:
                continue
            yield name, str(tensor.dtype).removeprefix("torch."), tensor.nbytes, tensor
        return
    for name, encoded in unpack(tensors[KEY])[1].items():
        payload = (part.stream if isinstance(part, Symbols) else part for part in encoded.payload.values())
        yield name, encoded.codec, sum(part.nbytes for part in payload), decode(encoded)


def _anatomy(name: str, kind: str, size: int, tensor: Tensor, shapes: Mapping[str, torch.Size]) -> TensorAnatomy:
    layer = name.removesuffix(_TRITS)
    if layer != name and f"{layer}{_WEIGHT}" in shapes:
        shape = shapes[f"{layer}{_WEIGHT}"]
        tensor = unpack_trits(tensor, shape.numel()).view(shape)
        kind = _TRITS[1:] if kind == "uint8" else f"{_TRITS[1:]}, {kind}"
    count = max(1, tensor.numel())
    shares = [float((tensor.sign() == sign).sum()) / count for sign in (-1, 0, 1)]
    is_ternary = kind.startswith(_TRITS[1:]) or kind == TERNARY
    return TensorAnatomy(name, kind, list(tensor.shape), size, shares[1], part_of(name), shares if is_ternary else None)

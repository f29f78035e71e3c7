"""Ternary models among the forge's bundles: the packed model for use, and its masters to be trained on."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from esper.errors import CheckpointError
from esper.forge.architectures import build_network
from esper.forge.bitnet.config import EMBEDDINGS
from esper.forge.bitnet.decoding import PackedDecoder
from esper.forge.bitnet.packing import round_embedding, unpack_network
from esper.forge.bitnet.quantizer import quantize_layers
from esper.forge.bundles import FORMATS
from esper.forge.card import ModelCard
from esper.kasmina.decoder import Decoder

TERNARY = "ternary"
WEIGHTS = "b1.58"


@FORMATS.register(TERNARY, ModelCard)
def build_ternary(card: ModelCard, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The tensors are those of `pack_network`."""
    network = unpack_network(build_network(card.architecture), tensors)
    return PackedDecoder.of(network) if type(network) is Decoder else network


def quantizer_card(embedding: str) -> dict[str, Any]:
    """What the card of master weights says of how they are quantised."""
    return {"weights": WEIGHTS, "activations": "int8", "embedding": embedding}


def apply_quantizer(network: nn.Module, quantizer: Mapping[str, Any]) -> nn.Module:
    """Master weights as they are in use, in place: what is packed from the network computes the same.

    Whoever trains them on puts in `quantize_layers` alone: the embedding is rounded when it is packed.
    Args: quantizer: of the masters' card. Raises: CheckpointError where it is none that is known here.
    """
    embedding = quantizer.get("embedding")
    if quantizer.get("weights") != WEIGHTS or embedding not in EMBEDDINGS:
        raise CheckpointError(f"the quantiser {dict(quantizer)} is not known; expected weights={WEIGHTS!r}")
    round_embedding(network, embedding)
    return quantize_layers(network)

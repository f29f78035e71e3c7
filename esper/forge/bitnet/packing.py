"""A quantised network as the tensors of its file, and back from them alone."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from esper.engine.kernels.ternary import EPS
from esper.errors import CheckpointError, FormatError
from esper.forge.bitnet.packed_linear import PackedLinear
from esper.forge.bitnet.quantizer import LAYERS, quantized_layers, replace_layers, ternarize

EMBEDDING = "embedding.weight"
EMBEDDING_SCALE = "embedding.scale"
_LEVELS = 127


def pack_embedding(weight: Tensor, kind: str) -> dict[str, Tensor]:
    """An embedding [V, C] as fp16, or as int8 with a float32 scale for each row [V]."""
    if kind == "fp16":
        return {EMBEDDING: weight.half()}
    scale = weight.abs().amax(1).clamp(min=EPS) / _LEVELS
    return {EMBEDDING: (weight / scale[:, None]).round().to(torch.int8), EMBEDDING_SCALE: scale}


def unpack_embedding(tensors: Mapping[str, Tensor]) -> Tensor:
    """The embedding [V, C] in float32."""
    weight = tensors[EMBEDDING].float()
    return weight * tensors[EMBEDDING_SCALE][:, None] if EMBEDDING_SCALE in tensors else weight


@torch.no_grad()
def round_embedding(network: nn.Module, kind: str) -> None:
    """Give the embedding, in place, the values that it will have once it is packed so."""
    weight = network.get_parameter(EMBEDDING)
    weight.copy_(unpack_embedding(pack_embedding(weight, kind)))


@torch.no_grad()
def pack_network(network: nn.Module, embedding: str) -> dict[str, Tensor]:
    """What a packed network's file holds.

    Args: network: with QuantizedLinears, which has whatever else float32; embedding: fp16 or int8.
    Returns: of every quantised layer NAME.trits [ceil(O * I / 5)] uint8 and NAME.scale []; the embedding; all other
    parameters as they are.
    """
    tensors: dict[str, Tensor] = {}
    masters = set()
    for name, layer in quantized_layers(network):
        packed = PackedLinear.of(*ternarize(layer.weight))
        tensors |= {f"{name}.trits": packed.trits, f"{name}.scale": packed.scale}
        masters.add(f"{name}.weight")
    tensors |= pack_embedding(network.get_parameter(EMBEDDING), embedding)
    others = {name: value for name, value in network.state_dict().items() if name not in masters | {EMBEDDING}}
    return tensors | {name: value.detach().clone() for name, value in others.items()}


@torch.no_grad()
def unpack_network(network: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A network of this architecture with the packed layers and values that the tensors hold, in place; for use alone.

    Raises: CheckpointError, in a line, where the tensors are not those of such a network.
    """
    left = dict(tensors)

    def take(name: str) -> Tensor:
        if name not in left:
            raise CheckpointError(f"a packed network: {name} is missing")
        return left.pop(name)

    def packed(name: str, linear: nn.Linear) -> PackedLinear:
        trits, scale = take(f"{name}.trits"), take(f"{name}.scale")
        if scale.shape != () or scale.dtype is not torch.float32 or not scale.isfinite():
            raise CheckpointError(f"a packed network: {name}.scale is no finite float32 number")
        try:
            return PackedLinear(linear.in_features, linear.out_features, linear.bias is not None).take(trits, scale)
        except FormatError as error:
            raise CheckpointError(f"a packed network: {name}: {error}") from error

    replace_layers(network, packed)
    names = (EMBEDDING, EMBEDDING_SCALE) if EMBEDDING_SCALE in left else (EMBEDDING,)
    embedding = {name: take(name) for name in names}
    if len(names) == 2 and embedding[EMBEDDING_SCALE].shape != embedding[EMBEDDING].shape[:1]:
        raise CheckpointError(f"a packed network: {EMBEDDING_SCALE} has no value for each row of {EMBEDDING}")
    left[EMBEDDING] = unpack_embedding(embedding)
    for name, value in network.state_dict().items():
        if name.endswith((".trits", ".scale")) and name.startswith(LAYERS):
            continue
        found = take(name)
        if found.shape != value.shape:
            raise CheckpointError(f"a packed network: {name} is {list(found.shape)}; expected {list(value.shape)}")
        value.copy_(found)
    if left:
        raise CheckpointError(f"a packed network: {min(left)} belongs to none of its layers")
    return network.requires_grad_(False).eval()

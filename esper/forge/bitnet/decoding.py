"""A packed decoder that writes on, token by token, each in one native call."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from esper.engine.kernels import ternary
from esper.engine.kernels.ternary_decoder import DecoderTensors, TernaryDecoder
from esper.kasmina.decoder import Decoder
from esper.kasmina.rotary import KeyValueCache, rotations

_ATTENTION, _MLP = ("query", "key", "value", "proj"), ("gate", "up", "down")


class NativeCache:
    """What a packed decoder has read, for the native kernels; its first tokens say how many sequences there are."""

    def __init__(self, network: "PackedDecoder") -> None:
        self._network = network
        self._native: TernaryDecoder | None = None

    @torch.no_grad()
    def extend(self, tokens: Tensor) -> Tensor:
        """See `Decoder.extend`."""
        native = self._native = self._native or native_decoder(self._network, len(tokens))
        count = native.length + tokens.shape[1]
        if count > native.capacity:
            raise ValueError(f"{count} tokens exceed block_size={native.capacity}: cut them, or begin anew")
        return torch.stack([native.step(column) for column in tokens.unbind(1)], 1)


class PackedDecoder(Decoder):
    """A decoder of PackedLinears. Where there are kernels, `extend` is one native call a token.

    That computes what `Decoder.extend` does, floats summed in another order: logits agree to rounding, and where
    rounding tips an activation to the next of its 255 values, a little less well.
    """

    @classmethod
    def of(cls, network: Decoder) -> "PackedDecoder":
        """The same network, which is not to be used any more but through this one."""
        packed = cls.__new__(cls)
        packed.__dict__ = network.__dict__
        return packed

    def new_cache(self) -> Any:
        """See `Decoder.new_cache`."""
        is_native = self.caches and self.embedding.weight.is_cpu and ternary.load()[0] is not None
        return NativeCache(self) if is_native else super().new_cache()

    def extend(self, tokens: Tensor, cache: KeyValueCache | NativeCache) -> Tensor:
        """See `Decoder.extend`."""
        return cache.extend(tokens) if isinstance(cache, NativeCache) else super().extend(tokens, cache)


def native_decoder(network: Any, sequences: int) -> TernaryDecoder:
    """A packed decoder as the native step takes it. Raises: EngineError where there are no kernels."""
    layers: Sequence[Any] = network.layers
    norms = [norm.weight for layer in layers for norm in (layer.attention_norm, layer.mlp_norm)]
    parts = [
        [getattr(layer.attention, name) for name in _ATTENTION] + [getattr(layer.mlp, name) for name in _MLP]
        for layer in layers
    ]
    head_width = network.embedding.weight.shape[1] // network.n_head
    cos, sin = rotations(network.block_size, torch.empty(head_width))
    tensors = DecoderTensors(
        network.embedding.weight,
        torch.stack([*norms, network.norm.weight]),
        [[packed.weight for packed in layer] for layer in parts],
        cos,
        sin,
    )
    window = network.window or network.block_size
    return TernaryDecoder(tensors, sequences, network.n_head, window, network.norm.eps)

"""A decoder of ternary layers, one token of each sequence at a time, as one call (`decode` of ternary.cpp)."""

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from esper.engine.kernels import ternary
from esper.engine.kernels.ternary import Decode, TernaryWeight
from esper.errors import EngineError

PARTS = 7  # of a layer: query, key, value, proj, gate, up, down


class DecoderTensors(NamedTuple):
    """What a decoder is made of. embedding [V, C]; norms [2 L + 1, C]; weights: L times PARTS; cos, sin [T, D / 2]."""

    embedding: Tensor
    norms: Tensor
    weights: Sequence[Sequence[TernaryWeight]]
    cos: Tensor
    sin: Tensor


class TernaryDecoder:
    """Sequences that grow side by side; what they hold is kept here.

    Args: sequences: how many; heads: of attention; window: how many tokens each looks at, itself included; eps: of the
    norms. Raises: EngineError where there is no library, or the tensors do not belong together.
    """

    def __init__(self, tensors: DecoderTensors, sequences: int, heads: int, window: int, eps: float) -> None:
        library, reason = ternary.load()
        if library is None:
            raise EngineError(f"ternary decoder: {reason}")
        self._library, self.length = library, 0
        vocab, width = tensors.embedding.shape
        layers, self.capacity = len(tensors.weights), tensors.cos.shape[0]
        hidden = tensors.weights[0][4].out_features
        _check(tensors, heads)
        addresses = [[weight.address for weight in layer] for layer in tensors.weights]
        held = {
            "embedding": tensors.embedding.detach().float().contiguous(),
            "head": tensors.embedding.detach().float().T.contiguous(),
            "norms": tensors.norms.detach().float().contiguous(),
            "codes": torch.tensor(addresses, dtype=torch.int64),
            "scales": torch.tensor([[weight.scale for weight in layer] for layer in tensors.weights]),
            "cosines": tensors.cos.float().contiguous(),
            "sines": tensors.sin.float().contiguous(),
            "keys": torch.zeros(layers, sequences, heads, width // heads, self.capacity),
            "values": torch.zeros(layers, sequences, heads, self.capacity, width // heads),
        }
        self._held = [held, tensors]  # what C++ holds addresses of
        self._arguments = Decode(
            sequences=sequences, layers=layers, width=width, hidden=hidden, heads=heads, vocabulary=vocab, eps=eps
        )
        self._arguments.capacity, self._arguments.window = self.capacity, window
        for name, tensor in held.items():
            setattr(self._arguments, name, tensor.data_ptr())

    def step(self, tokens: Tensor) -> Tensor:
        """Take in the next token of each sequence.

        Args: tokens [B] int64. Returns: logits of what follows [B, V]. Raises: EngineError for other tokens, or where
        the sequences are as long as they can be.
        """
        arguments = self._arguments
        expected = (arguments.sequences,)
        if tokens.shape != expected or tokens.dtype is not torch.int64 or not tokens.is_cpu:
            raise EngineError(f"a step takes int64 {list(expected)} on cpu, not {tokens.dtype} {list(tokens.shape)}")
        lowest, highest = torch.aminmax(tokens)
        if lowest < 0 or highest >= arguments.vocabulary:
            raise EngineError(f"tokens of {int(lowest)} to {int(highest)}, where there are {arguments.vocabulary}")
        if self.length == self.capacity:
            raise EngineError(f"the sequences have {self.capacity} tokens, and no room for more")
        tokens = tokens.contiguous()
        logits = torch.empty(arguments.sequences, arguments.vocabulary)
        arguments.tokens, arguments.logits = tokens.data_ptr(), logits.data_ptr()
        arguments.position, arguments.threads = self.length, torch.get_num_threads()
        self._library.ternary_decode(ctypes.byref(arguments))
        self.length += 1
        return logits


def _check(tensors: DecoderTensors, heads: int) -> None:
    _, width = tensors.embedding.shape
    hidden = tensors.weights[0][4].out_features
    shapes = [(width, width)] * 4 + [(hidden, width)] * 2 + [(width, hidden)]
    for layer in tensors.weights:
        if [(weight.out_features, weight.in_features) for weight in layer] != shapes:
            raise EngineError(f"a ternary decoder of width {width}: its layers are not {shapes}")
    half = width // (2 * heads)
    rotations = (tensors.cos.shape[0], half)
    norms = (2 * len(tensors.weights) + 1, width)
    if width != 2 * heads * half or tensors.cos.shape != rotations or tensors.sin.shape != rotations:
        raise EngineError(
            f"a ternary decoder of {heads} heads: rotations are [T, {half}], not {list(tensors.cos.shape)}"
        )
    if tensors.norms.shape != norms:
        raise EngineError(f"a ternary decoder: norms are {list(norms)}, not {list(tensors.norms.shape)}")

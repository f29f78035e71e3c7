"""Counting the arithmetic of a forward pass: one multiply-add is two FLOPs."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from esper.kasmina.attention import SelfAttention
from esper.kasmina.decoder import Decoder
from esper.kasmina.probe import evaluating
from esper.kasmina.rotary import RotaryAttention


def _conv(layer: nn.Conv1d | nn.Conv2d, inputs: Tensor, output: Tensor) -> int:
    taps = layer.in_channels // layer.groups * math.prod(layer.kernel_size)
    return output.numel() * (2 * taps + (layer.bias is not None))


def _linear(layer: nn.Linear, inputs: Tensor, output: Tensor) -> int:
    return output.numel() * (2 * layer.in_features + (layer.bias is not None))


def _pool(layer: nn.Module, inputs: Tensor, output: Tensor) -> int:
    return inputs.numel()


def _attention(layer: SelfAttention, inputs: Tensor, output: Tensor) -> int:
    """The products between pairs of positions that may see each other; its linear layers are counted by themselves."""
    length = inputs.shape[1]
    pairs = length * (length + 1) // 2 if layer.is_causal else length**2
    return inputs.shape[0] * pairs * (2 + 2) * inputs.shape[2]


def _rotary_attention(layer: RotaryAttention, inputs: Tensor, output: Tensor) -> int:
    """As of `_attention`, of pairs within the window; and turning queries and keys."""
    batch, length, width = inputs.shape
    span = min(layer.window or length, length)
    pairs = span * (span + 1) // 2 + (length - span) * span
    return batch * (pairs * (2 + 2) * width + length * 2 * 3 * width)


def _tied_head(layer: Decoder, inputs: Tensor, output: Tensor) -> int:
    """The product with its embedding, which no layer of its own does."""
    return output.numel() * 2 * layer.embedding.embedding_dim


_COUNTERS: dict[type[nn.Module], Callable[[Any, Tensor, Tensor], int]] = {
    nn.Conv1d: _conv,
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    SelfAttention: _attention,
    RotaryAttention: _rotary_attention,
    Decoder: _tied_head,
    nn.BatchNorm1d: lambda layer, inputs, output: 2 * output.numel(),  # at inference: one scale and shift
    nn.BatchNorm2d: lambda layer, inputs, output: 2 * output.numel(),
    nn.LayerNorm: lambda layer, inputs, output: 7 * output.numel(),  # two sums, centre, square, scale; scale and shift
    nn.RMSNorm: lambda layer, inputs, output: 4 * output.numel(),  # square and sum, scale; scale by weight
    nn.ReLU: lambda layer, inputs, output: output.numel(),
    nn.GELU: lambda layer, inputs, output: output.numel(),
    nn.SiLU: lambda layer, inputs, output: output.numel(),
    nn.Sigmoid: lambda layer, inputs, output: output.numel(),
    nn.MaxPool1d: _pool,
    nn.MaxPool2d: _pool,
    nn.AvgPool1d: _pool,
    nn.AvgPool2d: _pool,
    nn.AdaptiveAvgPool1d: _pool,
    nn.AdaptiveAvgPool2d: _pool,
}


def count_flops(model: nn.Module, inputs: Tensor) -> int:
    """FLOPs of the layers that one evaluation pass runs (sums and products between layers, and look-ups, left out).

    Args: inputs [1, ...]. The model is left as it was, training flags included.
    """
    total = 0

    def count(layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += next(count for kind, count in _COUNTERS.items() if isinstance(layer, kind))(
            layer, arguments[0], output
        )

    counted = tuple(_COUNTERS)
    hooks = [module.register_forward_hook(count) for module in model.modules() if isinstance(module, counted)]
    try:
        with torch.no_grad(), evaluating(model):
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return total

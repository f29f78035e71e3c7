"""Counting the arithmetic of a forward pass: one multiply-add is two FLOPs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def _conv(layer: nn.Conv2d, inputs: Tensor, output: Tensor) -> int:
    taps = layer.in_channels // layer.groups * layer.kernel_size[0] * layer.kernel_size[1]
    return output.numel() * (2 * taps + (layer.bias is not None))


def _linear(layer: nn.Linear, inputs: Tensor, output: Tensor) -> int:
    return output.numel() * (2 * layer.in_features + (layer.bias is not None))


def _max_pool(layer: nn.MaxPool2d, inputs: Tensor, output: Tensor) -> int:
    return inputs.numel()


_COUNTERS: dict[type[nn.Module], Callable[[Any, Tensor, Tensor], int]] = {
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    nn.BatchNorm2d: lambda layer, inputs, output: 2 * output.numel(),  # at inference: one scale and shift
    nn.ReLU: lambda layer, inputs, output: output.numel(),
    nn.Sigmoid: lambda layer, inputs, output: output.numel(),
    nn.MaxPool2d: _max_pool,
    nn.AdaptiveAvgPool2d: _max_pool,
}


def count_flops(model: nn.Module, inputs: Tensor) -> int:
    """FLOPs of the layers that one evaluation pass runs (sums and products between layers are left out).

    Args: inputs [1, ...]. The model is left as it was, training flags included.
    """
    total = 0

    def count(layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += _COUNTERS[type(layer)](layer, arguments[0], output)

    flags = {module: module.training for module in model.modules()}
    hooks = [module.register_forward_hook(count) for module in flags if type(module) in _COUNTERS]
    try:
        with torch.no_grad():
            model.eval()(inputs)
    finally:
        for hook in hooks:
            hook.remove()
        for module, is_training in flags.items():
            module.training = is_training
    return total

"""Standardised inputs: less the training split's mean, over its spread, channel by channel or feature by feature."""

from dataclasses import dataclass

import torch
from torch import Tensor

_AT_ONCE = 1 << 22  # numbers: what is widened to float64 at a time


@dataclass(frozen=True, slots=True)
class Standard:
    """Mean and spread by channel or feature, float64, in a shape that goes with inputs [N, ...]."""

    mean: Tensor
    spread: Tensor

    def apply(self, inputs: Tensor) -> Tensor:
        """Inputs of a floating dtype, standardised in place."""
        return inputs.sub_(self.mean.to(inputs)).div_(self.spread.to(inputs))


def standard_of(inputs: Tensor) -> Standard:
    """Of images [N, C, H, W] by channel; of sequences [N, T, F] and vectors [N, F] by feature.

    Where all values are the same the spread is 1: they become 0.
    """
    axis = 1 if inputs.ndim == 4 else inputs.ndim - 1
    shape = [1] * inputs.ndim
    shape[axis] = inputs.shape[axis]
    if inputs.dtype == torch.uint8:
        mean, variance = _of_bytes(inputs, axis)
    else:
        others = [place for place in range(inputs.ndim) if place != axis]
        parts = inputs.split(max(1, _AT_ONCE * len(inputs) // inputs.numel()))
        count = inputs.numel() // inputs.shape[axis]
        mean = torch.stack([part.double().sum(others) for part in parts]).sum(0) / count
        centre = mean.view(shape)
        variance = torch.stack([(part.double() - centre).square().sum(others) for part in parts]).sum(0) / count
    spread = variance.clamp_min(0.0).sqrt()
    return Standard(mean.view(shape), spread.where(spread > 0, 1.0).view(shape))


def _of_bytes(inputs: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Mean and variance, each [C]: exact by counting values, without a float copy of all of them."""
    counts = torch.stack([torch.bincount(part.flatten(), minlength=256) for part in inputs.unbind(axis)]).double()
    value = torch.arange(256, dtype=torch.float64, device=counts.device)
    mean = (counts * value).sum(1) / counts.sum(1)
    return mean, (counts * value.square()).sum(1) / counts.sum(1) - mean.square()

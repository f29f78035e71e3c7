"""Statistics of gradients, one row a member, straight from the stacks."""

from collections.abc import Iterable

import torch
from torch import Tensor

from esper.leyline.gradients import GradientStatistics, gradient_statistics


def row_statistics(gradients: Iterable[Tensor]) -> GradientStatistics:
    """Statistics over tensors [R, ...] of one stack; nothing waits for the device."""
    return gradient_statistics(torch.stack([grad.flatten(1).norm(dim=1) for grad in gradients]))  # [P, R]

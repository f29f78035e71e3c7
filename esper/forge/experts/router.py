"""The router: which mixture of experts a text is for, by what the base makes of its first tokens and nothing else."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

BATCH = 128  # prefixes read at a time


class PrefixRouter(nn.Module):
    """Linear on mean features of a prefix. weight [M, C], bias [M]: of M choices."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, features: Tensor) -> Tensor:
        """Args: features: of all tokens of a prefix, [B, n, C]. Returns: the choice of each, [B] int64."""
        return nn.functional.linear(features.mean(1), self.weight, self.bias).argmax(-1)


@torch.inference_mode()
def mean_features(base: Any, prefixes: Sequence[Tensor]) -> Tensor:
    """Mean features [N, C] of prefixes. Args: base: has `features`; prefixes: [n] tokens each, n at least 1."""
    found: dict[int, Tensor] = {}
    by_length: dict[int, list[int]] = {}
    for place, prefix in enumerate(prefixes):
        by_length.setdefault(len(prefix), []).append(place)
    for places in by_length.values():
        for start in range(0, len(places), BATCH):
            some = places[start : start + BATCH]
            means = base.features(torch.stack([prefixes[place] for place in some])).float().mean(1)
            found |= dict(zip(some, means, strict=True))
    return torch.stack([found[place] for place in range(len(prefixes))])


def fit_router(base: Any, prefixes: Sequence[Tensor], labels: Tensor, stages: Sequence[int]) -> PrefixRouter:
    """Logistic regression on prefixes as far as each stage reads them.

    Args: prefixes: [n] tokens each. labels: the choice of each, [N], from 0. stages: tokens after which it will choose.
    """
    from sklearn.linear_model import LogisticRegression

    cut = [(prefix[:stage], label) for prefix, label in zip(prefixes, labels.tolist(), strict=True) for stage in stages]
    features = mean_features(base, [prefix for prefix, _ in cut]).numpy()
    targets = np.array([label for _, label in cut])
    fitted = LogisticRegression(C=0.1, max_iter=500).fit(features, targets)
    weight, bias = torch.from_numpy(fitted.coef_).float(), torch.from_numpy(fitted.intercept_).float()
    if len(weight) == 1:  # of two choices it keeps the odds of the second alone
        weight, bias = torch.cat((torch.zeros_like(weight), weight)), torch.cat((torch.zeros_like(bias), bias))
    return PrefixRouter(weight, bias)

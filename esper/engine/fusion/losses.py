"""Cross-entropy and hits of every member at once."""

import torch.nn.functional as F
from torch import Tensor


def class_losses(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """logits [M, K, N], y [M or 1, N] -> mean cross-entropy [M] in nats, and how many are right [M]."""
    members, _, samples = logits.shape
    labels = y.expand(members, samples)
    losses = F.cross_entropy(logits.float() if logits.dtype.itemsize < 4 else logits, labels, reduction="none")
    best = logits.detach().max(1).indices  # the first of equals, as argmax, and many times faster along this dimension
    return losses.mean(1), (best == labels).sum(1)


def token_losses(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """logits [M, B, ..., K], y [M or 1, B, ...] -> mean cross-entropy [M] in nats, and how many are right [M]."""
    if logits.dim() == 3:  # of whole samples; few classes go several times faster in the middle
        return class_losses(logits.transpose(1, 2).contiguous(), y)
    members, classes = logits.shape[0], logits.shape[-1]
    flat, labels = logits.reshape(-1, classes), y.expand(members, *y.shape[1:]).reshape(-1)
    losses = F.cross_entropy(flat.float() if flat.dtype.itemsize < 4 else flat, labels, reduction="none")
    return losses.view(members, -1).mean(1), (flat.detach().argmax(1) == labels).view(members, -1).sum(1)

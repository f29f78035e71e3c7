"""Cross-entropy and accuracy of every member at once."""

import torch.nn.functional as F
from torch import Tensor


def member_losses(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """logits [M, K, N], y [N] -> mean cross-entropy [M] in nats, and how many are right [M]."""
    members, _, samples = logits.shape
    labels = y.expand(members, samples)
    losses = F.cross_entropy(logits.float() if logits.dtype.itemsize < 4 else logits, labels, reduction="none")
    correct = (logits.detach().argmax(1) == labels).sum(1)
    return losses.mean(1), correct

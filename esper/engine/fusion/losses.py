"""Losses of every member at once, and what scores are made of: hits of classes, squared errors of targets."""

import torch.nn.functional as F
from torch import Tensor

from esper.leyline.score import CROSS_ENTROPY, MSE

HUBER_DELTA = 1.0  # in standard deviations of the targets


def plain_loss(outputs: Tensor, y: Tensor, loss: str, reduction: str = "mean") -> Tensor:
    """As torch has it. outputs: logits [N, K] of labels y [N], or [..., K] for targets y [..., K]."""
    outputs = outputs.float() if outputs.dtype.itemsize < 4 else outputs
    if loss == CROSS_ENTROPY:
        return F.cross_entropy(outputs, y, reduction=reduction)
    if loss == MSE:
        return F.mse_loss(outputs, y, reduction=reduction)
    return F.huber_loss(outputs, y, reduction=reduction, delta=HUBER_DELTA)


def class_losses(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """logits [M, K, N], y [M or 1, N] -> mean cross-entropy [M] in nats, and how many are right [M]."""
    members, _, samples = logits.shape
    labels = y.expand(members, samples)
    losses = plain_loss(logits, labels, CROSS_ENTROPY, "none")
    best = logits.detach().max(1).indices  # the first of equals, as argmax, and many times faster along this dimension
    return losses.mean(1), (best == labels).sum(1)


def token_losses(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """logits [M, B, ..., K], y [M or 1, B, ...] -> mean cross-entropy [M] in nats, and how many are right [M]."""
    if logits.dim() == 3:  # of whole samples; few classes go several times faster in the middle
        return class_losses(logits.transpose(1, 2).contiguous(), y)
    members, classes = logits.shape[0], logits.shape[-1]
    flat, labels = logits.reshape(-1, classes), y.expand(members, *y.shape[1:]).reshape(-1)
    losses = plain_loss(flat, labels, CROSS_ENTROPY, "none")
    return losses.view(members, -1).mean(1), (flat.detach().argmax(1) == labels).view(members, -1).sum(1)


def target_losses(outputs: Tensor, y: Tensor, loss: str) -> tuple[Tensor, Tensor]:
    """outputs [M, N, K], targets y [M or 1, N, K] -> mean loss [M], and each target's sum of squared errors [M, K]."""
    targets = y.expand(outputs.shape)
    return plain_loss(outputs, targets, loss, "none").mean((1, 2)), (outputs.detach() - targets).square().sum(1)

"""What a quantised model learns from: the text, and what its teacher says of it."""

import torch
import torch.nn.functional as F
from torch import Tensor


def distillation_loss(
    logits: Tensor, teacher: Tensor, targets: Tensor, distill: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy with the text and divergence KL(teacher || model), in nats a token, mixed.

    Args: logits, teacher [B, T, V]; targets [B, T], -100 where nothing is learned; distill: the divergence's share.
    Returns: loss, cross-entropy, divergence. Source: Hinton et al. 2015, arXiv 1503.02531.
    """
    learned = targets.flatten() >= 0
    log_probs = logits.float().flatten(0, 1)[learned].log_softmax(-1)
    cross_entropy = F.nll_loss(log_probs, targets.flatten()[learned])
    wanted = teacher.float().flatten(0, 1)[learned].log_softmax(-1)
    divergence = F.kl_div(log_probs, wanted, reduction="batchmean", log_target=True)
    return torch.lerp(cross_entropy, divergence, distill), cross_entropy, divergence

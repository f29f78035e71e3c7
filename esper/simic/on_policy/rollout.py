"""Rollouts: what a policy has lived through, as tensors, and the episodes that ended in it."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class EpisodeResult:
    """One whole episode of one member."""

    member: int
    total_reward: float
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """T steps of M members, [T, M, ...]; `episodes` are those that ended in it, in the order of time.

    next_values: what the policy thinks of the observation that followed each step, before any reset; 0 where the
    episode terminated, and where its time was up unless the learner bootstraps there. starts: this observation is an
    episode's first. memory: before the first step [M, 2H], for a policy that has one.
    """

    observations: Tensor  # [T, M, F]
    masks: Tensor  # [T, M, A]
    actions: Tensor
    log_probs: Tensor
    rewards: Tensor
    values: Tensor
    next_values: Tensor
    terminated: Tensor
    truncated: Tensor
    starts: Tensor
    memory: Tensor | None = None
    episodes: tuple[EpisodeResult, ...] = ()

    def to(self, device: str | torch.device) -> "Rollout":
        """The same on another device."""
        moved: dict[str, Any] = {
            name: value.to(device) for name in self.__slots__ if isinstance(value := getattr(self, name), Tensor)
        }
        return replace(self, **moved)

"""What each decision was worth: generalised advantages and discounted returns of a rollout."""

import torch
from torch import Tensor


def gae(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """Generalised advantage estimates [T, M]; add `values` for the returns they imply (lambda-returns).

    Args: all [T, M], in the order of time. next_values: of the observation that followed the step, before any reset:
    used unless the episode terminated there (a truncated one is bootstrapped).
    Source: Schulman et al. 2016, "High-dimensional continuous control using generalized advantage estimation".
    """
    errors = rewards + gamma * next_values.masked_fill(terminated, 0.0) - values
    return _discount(errors, terminated | truncated, gamma * gae_lambda, torch.zeros_like(errors[-1]))


def discounted_returns(
    rewards: Tensor, next_values: Tensor, terminated: Tensor, truncated: Tensor, gamma: float
) -> Tensor:
    """Discounted sums of rewards up to the episode's end [T, M]. Args as in `gae`.

    An episode that was truncated, or cut off by the rollout's end, goes on as `next_values` says; zeros there give the
    plain sums.
    """
    tail = next_values.masked_fill(terminated, 0.0)
    ended = terminated | truncated
    return _discount(rewards + gamma * tail.masked_fill(~ended, 0.0), ended, gamma, tail[-1])


def normalized(advantages: Tensor, free: Tensor) -> Tensor:
    """Advantages [T, M] less the mean of the free decisions', over their deviation."""
    chosen = advantages[free]
    if len(chosen) < 2:
        return torch.zeros_like(advantages)
    return (advantages - chosen.mean()) / (chosen.std() + 1e-8)


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 - the share of the returns' variance that is left when the values are subtracted; 0 where there is none."""
    variance = returns.var(correction=0)
    return float(1 - (returns - values).var(correction=0) / variance) if variance > 0 else 0.0


def _discount(terms: Tensor, ended: Tensor, factor: float, tail: Tensor) -> Tensor:
    sums = torch.empty_like(terms)
    factors = factor * (~ended).to(terms.dtype)
    for step in range(len(terms) - 1, -1, -1):
        tail = sums[step] = terms[step] + factors[step] * tail
    return sums

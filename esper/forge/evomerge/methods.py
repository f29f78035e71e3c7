"""Ways to merge models of one architecture, on state dicts: name -> tensor.

Tied tensors are merged once and stay tied. Sums are taken in float64, so that a model whose weight is 1 comes back
exactly. Wherever weights are [..., E], as many merges are made at once: [K, E] gives tensors [K, ...].
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from esper.errors import EsperError

State = dict[str, Tensor]
Weights = Tensor | Mapping[str, Tensor]  # [..., E] for all tensors, or name -> [..., E]

_PARALLEL = 1e-6  # sine of an angle below which an arc is its chord


def linear(models: Sequence[State], weights: Weights) -> State:
    """The weighted sum of models; with weights 1 / E the uniform soup (Wortsman et al. 2022, arXiv:2203.05482).

    Args:
        models: E state dicts. weights: [..., E], which need not sum to 1.

    Returns:
        name -> [..., *shape].
    """
    return _merge(models, lambda name, stacked: _weighted_sum(_weights_of(weights, name), stacked))


def slerp(first: State, second: State, t: float | Tensor) -> State:
    """Along the arc from one model to another, tensor by tensor (Shoemake 1985); parallel ones, along the chord.

    Args: t: 0 for the first model, 1 for the second; a tensor [K] for K merges at once.
    """
    return _merge([first, second], lambda name, stacked: _arc(stacked[0], stacked[1], torch.as_tensor(t).double()))


def passthrough(models: Sequence[State], source: Mapping[str, int]) -> State:
    """Every tensor whole from one of the models, as when layers of several are put together.

    Args: source: name of a tensor -> index of the model that gives it.
    """
    return _merge(models, lambda name, stacked: stacked[source[name]])


def task_arithmetic(trunk: State, experts: Sequence[State], weights: Weights) -> State:
    """The trunk plus weighted task vectors (Ilharco et al. 2023, arXiv:2212.04089)."""
    return add_task_vectors(trunk, task_vectors(trunk, experts), weights)


def ties(trunk: State, experts: Sequence[State], weights: Weights, density: float) -> State:
    """Task vectors trimmed, their signs elected, and those that agree averaged (Yadav et al. 2023, arXiv:2306.01708).

    Args: weights: [..., E]; all equal to the paper's lambda for its own merge. density: as of `trim_and_elect`.
    """
    return add_task_vectors(trunk, ties_vectors(trunk, experts, density), weights)


def dare(
    trunk: State, experts: Sequence[State], weights: Weights, drop_rate: float, generator: torch.Generator
) -> State:
    """Task vectors of which a random share is dropped and the rest rescaled (Yu et al. 2024, arXiv:2311.03099)."""
    return add_task_vectors(trunk, dare_vectors(trunk, experts, drop_rate, generator), weights)


def task_vectors(trunk: State, experts: Sequence[State]) -> State:
    """What each expert has learned since the trunk.

    Returns: name -> [E, *shape] float64; a tied tensor's names share one.
    """
    return _merge([trunk, *experts], lambda name, stacked: stacked[1:] - stacked[0], dtype=torch.float64)


def ties_vectors(trunk: State, experts: Sequence[State], density: float) -> State:
    """Task vectors as `ties` adds them: name -> [E, *shape], of tied names the first."""
    return {name: trim_and_elect(vector, density) for name, vector in _unique(task_vectors(trunk, experts)).items()}


def dare_vectors(trunk: State, experts: Sequence[State], drop_rate: float, generator: torch.Generator) -> State:
    """Task vectors as `dare` adds them: name -> [E, *shape], of tied names the first."""
    vectors = _unique(task_vectors(trunk, experts))
    return {name: drop_and_rescale(vector, drop_rate, generator) for name, vector in vectors.items()}


def add_task_vectors(trunk: State, vectors: Mapping[str, Tensor], weights: Weights) -> State:
    """The trunk plus the weighted sum of task vectors.

    Args: vectors: name -> [E, *shape]; of tied names, the first will do. weights: [..., E].
    """
    return _merge([trunk], lambda name, stacked: stacked[0] + _weighted_sum(_weights_of(weights, name), vectors[name]))


def trim_and_elect(vector: Tensor, density: float) -> Tensor:
    """Task vectors of which each keeps its largest values, and of those the ones that have the elected sign.

    Args:
        vector: [E, *shape]. density: share of values that an expert keeps, by magnitude.

    Returns:
        [E, *shape], divided by the number of experts that agree, so that their sum is the disjoint mean.
    """
    flat = vector.flatten(1)
    kept = max(1, round(density * flat.shape[1]))
    if kept < flat.shape[1]:
        chosen = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, flat.abs().topk(kept, dim=1).indices, True)
        flat = torch.where(chosen, flat, 0)
    agrees = (flat.sign() == flat.sum(0).sign()) & (flat != 0)
    return (torch.where(agrees, flat, 0) / agrees.sum(0).clamp(min=1)).view_as(vector)


def drop_and_rescale(vector: Tensor, drop_rate: float, generator: torch.Generator) -> Tensor:
    """Each value is dropped with probability `drop_rate`, or divided by the probability that it stays."""
    kept = torch.rand(vector.shape, generator=generator) >= drop_rate
    return torch.where(kept.to(vector.device), vector / (1 - drop_rate), 0)


def _merge(models: Sequence[State], rule: Callable[[str, Tensor], Tensor], dtype: torch.dtype | None = None) -> State:
    """`rule(name, [M, *shape] float64)` for each tensor that several models have, once for tied ones.

    Raises: EsperError where the models differ in names or shapes.
    """
    first, *others = models
    for other in others:
        if {name: tensor.shape for name, tensor in other.items()} != {name: t.shape for name, t in first.items()}:
            raise EsperError("models of different architectures cannot be merged: names or shapes of tensors differ")
    merged: State = {}
    for name, tensor in _unique(first).items():
        stacked = torch.stack([model[name].detach().double() for model in models])
        merged[name] = rule(name, stacked).to(dtype or tensor.dtype)
    return {name: merged[owner] for name, owner in _owners(first).items()}


def _owners(state: State) -> dict[str, str]:
    """Every name -> the first name of the same tensor."""
    first: dict[tuple[object, ...], str] = {}
    return {
        name: first.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), name)
        for name, tensor in state.items()
    }


def _unique(state: State) -> State:
    return {name: state[name] for name, owner in _owners(state).items() if name == owner}


def _weights_of(weights: Weights, name: str) -> Tensor:
    return weights if isinstance(weights, Tensor) else weights[name]


def _weighted_sum(weights: Tensor, stacked: Tensor) -> Tensor:
    """[..., E], [E, *shape] -> [..., *shape]"""
    return torch.tensordot(weights.to(stacked), stacked, dims=1)


def _arc(first: Tensor, second: Tensor, t: Tensor) -> Tensor:
    lengths = first.norm() * second.norm()
    angle = torch.acos(((first * second).sum() / lengths).clamp(-1, 1))
    if angle.sin() > _PARALLEL:  # false for the angle to a zero tensor, which is NaN
        shares = torch.stack([((1 - t) * angle).sin(), (t * angle).sin()], -1) / angle.sin()
    else:
        shares = torch.stack([1 - t, t], -1)
    return _weighted_sum(shares, torch.stack([first, second]))

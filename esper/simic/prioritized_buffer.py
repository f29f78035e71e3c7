"""Experience replay that revisits surprising transitions more often."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from esper.errors import LearnerError
from esper.simic.sum_tree import SumTree

_FIELDS = ("states", "actions", "rewards", "next_states", "dones")
_SCALARS = {"rewards": np.float32, "dones": np.float32}


class PrioritizedReplayBuffer:
    """A ring of transitions, drawn in proportion to (|priority| + epsilon)^alpha.

    `beta`, the exponent of the importance weights, grows by `beta_increment` with each `sample()`, up to 1.
    Transitions have the shapes and types of the first one; floating point is kept as float32.
    Source: Schaul et al. 2016, "Prioritized experience replay", arXiv:1511.05952 (proportional variant).
    """

    def __init__(
        self,
        capacity: int,
        alpha: float = 0.6,
        beta: float = 0.4,
        beta_increment: float = 0.001,
        epsilon: float = 1e-6,
        generator: torch.Generator | None = None,
    ) -> None:
        if capacity < 1 or alpha < 0 or not 0 <= beta <= 1 or beta_increment < 0 or not epsilon > 0:
            raise LearnerError(
                f"capacity={capacity}, alpha={alpha}, beta={beta}, beta_increment={beta_increment}, epsilon={epsilon}: "
                "expected capacity >= 1, alpha >= 0, beta in [0, 1], beta_increment >= 0 and epsilon > 0."
            )
        self.capacity, self.alpha, self.beta = capacity, alpha, beta
        self.beta_increment, self.epsilon = beta_increment, epsilon
        self.generator = generator or torch.Generator().manual_seed(0)
        self._tree = SumTree(capacity)
        self._priorities = self._tree.leaves  # [capacity], with the exponent applied
        self._ring: NDArray[Any] | None = None  # one record a transition: a draw then touches one place in memory
        self._added = self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(
        self, state: ArrayLike, action: ArrayLike, reward: float, next_state: ArrayLike, done: bool, priority: float
    ) -> None:
        """Keep one transition, in place of the oldest if the buffer is full."""
        one = (torch.as_tensor(value).unsqueeze(0) for value in (state, action, reward, next_state, done, priority))
        self.extend(*one)

    def extend(
        self,
        states: ArrayLike,
        actions: ArrayLike,
        rewards: ArrayLike,
        next_states: ArrayLike,
        dones: ArrayLike,
        priorities: ArrayLike,
    ) -> None:
        """Keep T transitions, oldest first. Args: arrays or tensors [T, ...], T <= capacity; rewards, dones,
        priorities [T]."""
        given = (states, actions, rewards, next_states, dones)
        fields = {name: _array(value) for name, value in zip(_FIELDS, given, strict=True)}
        exponentiated = self._exponentiate(priorities)
        count = len(exponentiated)
        ring = np.zeros(self.capacity, _record(fields)) if self._ring is None else self._ring
        for name, values in fields.items():
            if values.shape != (count, *ring.dtype[name].shape):
                raise LearnerError(
                    f"{name} has shape {list(values.shape[1:])} for each of {len(values)} transitions; expected "
                    f"{list(ring.dtype[name].shape)} for each of {count}, as in the first one."
                )
        if count > self.capacity:
            raise LearnerError(f"{count} transitions at once do not fit: expected at most capacity={self.capacity}.")
        indices = (self._added + np.arange(count)) % self.capacity
        for name, values in fields.items():
            ring[name][indices] = values
        self._ring = ring
        self._tree.update(indices, exponentiated)
        self._added += count
        self._size = min(self._size + count, self.capacity)

    def sample(self, batch_size: int) -> tuple[dict[str, Tensor], NDArray[np.int64], Tensor]:
        """Draw transitions, one from each of `batch_size` equal shares of the total priority (so, with replacement).

        Returns the batch (states, actions, rewards, next_states, dones; [B, ...]), the indices [B] to hand to
        `update_priorities`, and the importance weights [B], the largest of which is 1.
        """
        if self._ring is None or not self._size:
            raise LearnerError("The replay buffer is empty: add() a transition before sample().")
        if batch_size < 1:
            raise LearnerError(f"batch_size={batch_size}: expected at least 1.")
        shares = torch.rand(batch_size, generator=self.generator, dtype=torch.float64).numpy()
        shares += np.arange(batch_size)
        shares *= (1 - 1e-15) / batch_size  # stays below 1 after rounding
        indices = np.minimum(self._tree.find(shares), self._size - 1)
        priorities = self._priorities.take(indices)
        weights = (priorities / priorities.min()) ** -self.beta
        self.beta = min(1.0, self.beta + self.beta_increment)
        records = self._ring.take(indices)
        batch = {name: torch.from_numpy(records[name].copy()) for name in _FIELDS}
        return batch, indices, torch.from_numpy(weights.astype(np.float32))

    def update_priorities(self, indices: ArrayLike, priorities: ArrayLike) -> None:
        """Set the priorities (|TD error|, say) of transitions that were drawn. Args: both [B]."""
        where = np.asarray(indices, dtype=np.int64).reshape(-1)
        exponentiated = self._exponentiate(priorities)
        if where.shape != exponentiated.shape:
            raise LearnerError(f"{len(where)} indices and {len(exponentiated)} priorities: expected one for each.")
        if where.size and where.view(np.uint64).max() >= self._size:  # a negative index is a huge unsigned one
            raise LearnerError(f"indices hold {where.min()} to {where.max()}; expected 0 to {self._size - 1}.")
        self._tree.update(where, exponentiated)

    def _exponentiate(self, priorities: ArrayLike) -> NDArray[np.float64]:
        given = torch.as_tensor(priorities).detach().to("cpu", torch.float64).reshape(-1).numpy()
        exponentiated = (np.abs(given) + self.epsilon) ** self.alpha
        if not math.isfinite(exponentiated.sum()):
            raise LearnerError("Some priorities are NaN or infinite; expected finite numbers.")
        return exponentiated


def _array(values: ArrayLike) -> NDArray[Any]:
    tensor = torch.as_tensor(values).detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _record(fields: dict[str, NDArray[Any]]) -> np.dtype[Any]:
    described = [(name, _SCALARS.get(name, values.dtype), values.shape[1:]) for name, values in fields.items()]
    return np.dtype(described, align=True)

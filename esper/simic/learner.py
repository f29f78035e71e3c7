"""What every learner can do, and how the features and actions of its policy are named."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from esper.errors import LearnerError
from esper.leyline import Action, Operation

if TYPE_CHECKING:
    from esper.simic.on_policy.rollout import Rollout

_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Decision:
    """One step of M members: actions, their log-probabilities, values [M], and the memory after it [M, 2H]."""

    actions: Tensor
    log_probs: Tensor
    values: Tensor
    memory: Tensor | None = None


class Learner(Protocol):
    """Acts, and learns from what came of it.

    The loop it serves::

        collector = Collector(env, learner, seed)
        for _ in range(updates):
            metrics = learner.update(collector.collect(steps))
    """

    state_dim: int
    action_dim: int
    features: list[str]  # names of what it sees ...
    actions: list[str]  # ... and of what it chooses from
    bootstrap_truncated: bool  # what would have followed a time limit counts

    def first_memory(self, members: int) -> Tensor | None:
        """What a policy with a memory remembers at an episode's beginning [M, 2H]; None for one without."""
        ...

    def act(
        self,
        observations: NDArray[Any],
        masks: NDArray[Any],
        deterministic: bool = False,
        memory: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Decision:
        """Decide for M members. Args: observations [M, F]; masks [M, A]; generator: instead of the learner's own."""
        ...

    def values(self, observations: NDArray[Any], memory: Tensor | None = None) -> Tensor:
        """What the policy expects to gain from here on [M]."""
        ...

    def update(self, rollout: "Rollout") -> dict[str, float]:
        """Learn from a rollout of the policy as it is; returns metrics."""
        ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that decides later actions and updates: tensors by name, and plain JSON values."""
        ...

    def load_state(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken. Raises LearnerError where features or actions are others."""
        ...


def action_name(action: Action) -> str:
    """The operation, slot, blueprint and blend of an action, as far as it needs them."""
    needed = {Operation.WAIT: 0, Operation.GERMINATE: 3}.get(action.operation, 1)
    return " ".join([action.operation.name, *(action.slot, action.blueprint, action.blend)[:needed]])


def check_names(what: str, own: Sequence[str], theirs: Sequence[str]) -> None:
    """Raise LearnerError saying which features or actions of a policy differ from those at hand."""
    if list(own) == list(theirs):
        return
    gone = [name for name in theirs if name not in set(own)]
    new = [name for name in own if name not in set(theirs)]
    parts = [
        f"{label}: {', '.join(names[:_SHOWN])}{f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''}"
        for label, names in (("not here", gone), ("not known to it", new))
        if names
    ]
    found = "; ".join(parts) or "the same, in another order"
    raise LearnerError(
        f"The policy was trained with other {what} ({found}). "
        "Use the task, host, slots and blueprints it was trained with, or train a new one."
    )

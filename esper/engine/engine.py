"""What a population asks of the engine that trains it."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

Gradients = dict[str, dict[str, Tensor]]  # stack -> parameter -> [R, ...]
Values = dict[str, Tensor]
Captured = dict[str, Values]


class Engine(Protocol):
    """Trains and evaluates all members of a population; minibatches come in the engine's own layout.

    `generation` counts changes of the work to be done: a recording of a step is good for one generation.
    """

    kind: str
    generation: int

    def prepare(self, steps: int, version: int, seeds: Sequence[int] | None = None) -> None:
        """Take over stages and blends for an epoch of this many steps.

        version: of the stacks; seeds [M]: of what layers such as Dropout draw while training (None: they draw from
        torch's own stream).
        """
        ...

    def lay(self, x: Tensor) -> Tensor:
        """A minibatch of inputs [J, B, ...] as it lies in memory here; J is 1, or one for each member."""
        ...

    def gradients(self, x: Tensor, y: Tensor, step: int | Tensor) -> tuple[Gradients, Tensor, Tensor]:
        """One minibatch for all; step: of the epoch. Returns gradients, losses [M], correct [M]."""
        ...

    def finish(self, steps: int) -> None:
        """The epoch's steps are done: blends have moved on, seeds that were not finite are marked."""
        ...

    def losses(self, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy of each row [M] in nats, and how many targets it hits [M]."""
        ...

    def logits(self, x: Tensor, captured: Captured) -> Tensor:
        """Logits of all members, one row each; `captured` receives what `logits_without` starts from."""
        ...

    def logits_without(self, slot: str, members: Sequence[int], captured: Captured) -> Tensor:
        """Logits of some members, one row each, with the seed in one slot left out."""
        ...

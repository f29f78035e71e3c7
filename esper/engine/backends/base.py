"""What a population asks of the engine that trains it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from esper.engine.fusion.tracing import Captured

FUSED, SEQUENTIAL = KINDS = ("fused", "sequential")
Gradients = dict[str, dict[str, Tensor]]  # stack -> parameter -> [R, ...]
Absent = Mapping[str, Mapping[str, Sequence[int]]]  # stack -> parameter -> rows


@dataclass(frozen=True, slots=True)
class Backward:
    """What a minibatch gives: losses [M] and hits as of `Engine.losses`, and the gradients of all that took part.

    absent: rows of a parameter that took no part, where others did; a parameter that took part nowhere has no gradient.
    """

    gradients: Gradients
    losses: Tensor
    hits: Tensor
    absent: Absent = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Way:
    """How members are trained: on which kind of engine, and how images lie where they train one by one."""

    kind: str
    is_channels_last: bool = False

    def __str__(self) -> str:
        return f"{self.kind}{', channels_last' if self.is_channels_last else ''}"


class Engine(Protocol):
    """Trains and evaluates all members of a population; minibatches come in the engine's own layout.

    `generation` counts changes of the work to be done: a recording of a step is good for one generation.
    """

    kind: str
    generation: int

    def prepare(self, steps: int, version: int, seeds: Sequence[int] | None = None, training: bool = True) -> None:
        """Take over stages and blends for an epoch of this many steps, or for an evaluation.

        version: of the stacks; seeds [M]: of what layers such as Dropout draw while training (None: they draw from
        the global streams). Raises EngineError where the networks are no longer what this engine was made for.
        """
        ...

    def to_layout(self, x: Tensor) -> Tensor:
        """A minibatch of inputs [J, B, ...] as it lies in memory here; J is 1, or one for each member."""
        ...

    def backward(self, x: Tensor, y: Tensor, step: int | Tensor) -> Backward:
        """One minibatch for all, forward and backward; step: of the epoch."""
        ...

    def finish(self, steps: int) -> None:
        """So many more of the epoch's steps are done: blends have moved on, seeds that were not finite are marked."""
        ...

    def losses(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss of each row [M], and how many labels it hits [M]; of a regression its squared errors [M, K]."""
        ...

    def logits(self, x: Tensor, captured: Captured) -> Tensor:
        """Outputs of all members, one row each; `captured` receives what `logits_without` starts from."""
        ...

    def logits_without(self, slot: str, members: Sequence[int], captured: Captured) -> Tensor:
        """Outputs of some members, one row each, with the seed in one slot left out."""
        ...

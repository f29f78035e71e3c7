"""Processes that train one population together, and one process that trains it alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Ranks(Protocol):
    """Processes that share one run: each trains some of its members, and all decide alike.

    All of them make the same calls in the same order, and each call waits for the others'. rank: from 0 to world - 1;
    rank 0 alone writes files and speaks.
    """

    rank: int
    world: int

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Put in place of each tensor its sum over all ranks, the same bits on each."""
        ...

    def all_gather(self, value: Any) -> list[Any]:
        """Every rank's value, in the order of ranks."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """As `all_gather`, for rank 0 alone; the others get nothing."""
        ...

    def broadcast(self, value: Any) -> Any:
        """The value of rank 0."""
        ...


class Alone:
    """A process that shares its run with no other."""

    rank, world = 0, 1

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """They are the sums already."""

    def all_gather(self, value: Any) -> list[Any]:
        """The value."""
        return [value]

    def gather(self, value: Any) -> list[Any]:
        """The value."""
        return [value]

    def broadcast(self, value: Any) -> Any:
        """The value."""
        return value


ALONE = Alone()


def share(count: int, ranks: Ranks) -> range:
    """Which of so many things in a row are this rank's: no rank has more than one more than another."""
    return range(count * ranks.rank // ranks.world, count * (ranks.rank + 1) // ranks.world)

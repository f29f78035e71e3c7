"""Sums over many changing numbers, and where in them a given mass lies."""

import numpy as np
from numpy.typing import NDArray

# Below this many nodes a running sum over a whole level is faster than descending through the levels above it.
_TOP_NODES = 1024


class SumTree:
    """`capacity` numbers >= 0 (float64, zero at first) under a binary tree of their sums.

    Every node is the sum of its two children, computed anew whenever one of them changes: nothing drifts.
    """

    def __init__(self, capacity: int) -> None:
        self._width = 1 << max(capacity - 1, 0).bit_length()
        self._top = min(self._width, _TOP_NODES)
        self._depth = (self._width // self._top).bit_length() - 1  # levels below the top
        self._nodes = np.zeros(2 * self._width)  # the children of node i are 2i and 2i + 1
        self._pairs = self._nodes.view(np.complex128)  # two children in one gather
        self._before = np.zeros(self._top + 1)  # the mass before each node of the top level
        self.leaves = self._nodes[self._width : self._width + capacity]

    def total(self) -> float:
        """The sum of all numbers."""
        return float(self._sum_top()[-1])

    def update(self, indices: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        """Set some of the numbers; of an index given twice, the last value counts. Args: both [B]."""
        self.leaves[indices] = values
        nodes = indices + self._width
        for _ in range(self._depth):
            nodes >>= 1
            children = self._pairs.take(nodes)
            self._nodes[nodes] = children.real + children.imag

    def find(self, shares: NDArray[np.float64]) -> NDArray[np.int64]:
        """The numbers in which these shares of the total lie: index i for a share in [sum before i, sum up to i).

        Args: shares [B] in [0, 1), ascending ones fastest. Where trailing numbers are zero, rounding may put a share
        next to 1 among them.
        """
        before = self._sum_top()
        masses = shares * before[-1]
        nodes = before[1:-1].searchsorted(masses, side="right")
        masses -= before.take(nodes)
        nodes += self._top
        left = np.empty_like(masses)
        for _ in range(self._depth):
            nodes += nodes
            self._nodes.take(nodes, out=left, mode="clip")  # "raise" would buffer the output
            right = masses >= left
            left *= right  # a product, as masks cost mispredicted branches
            masses -= left
            nodes += right
        nodes -= self._width
        return nodes

    def _sum_top(self) -> NDArray[np.float64]:
        np.add.accumulate(self._nodes[self._top : 2 * self._top], out=self._before[1:])
        return self._before

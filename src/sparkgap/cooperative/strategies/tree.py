"""Sums in a balanced binary tree whose shape depends on nothing but the number of leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sparkgap.cooperative.strategies.flat import Flat
from sparkgap.cooperative.telling import within

if TYPE_CHECKING:
    from sparkgap.cooperative.strategies.group import Group

CHUNK_BYTES = 4 << 20
"""Of a message between two ranks: one chunk is added while the next is on its way."""
_WHOLE_BYTES = 64 << 10  # a vector up to this size is not worth cutting
_TAG = 7000


class TreeSum:
    """Sums leaves that come one after the other, with a vector for each level of the tree.

    Args:
        leaves: how many come, a power of two.
        make: makes memory for one leaf.
    """

    def __init__(self, leaves: int, make: Callable[[], Flat]) -> None:
        self._levels = [make() for _ in range(leaves.bit_length())]
        self._leaves = leaves
        self._make = make
        self._scratch: Flat | None = None
        self._count = 0

    def push(self, values: Sequence[np.ndarray], weight: float = 1.0) -> None:
        """Take the next leaf, times a weight. The product is rounded before it is added, on either side of the tree."""
        right = self._count % 2 == 1
        if weight == 1:
            (self._levels[0].add if right else self._levels[0].fill)(values)
        else:
            if right and self._scratch is None:
                self._scratch = self._make()
            target = self._scratch if right and self._scratch is not None else self._levels[0]
            target.fill(values)
            target.scale(weight)
            if right:
                self._levels[0].add(target.arrays)
        self._carry()

    def push_zero(self) -> None:
        """Take a leaf of zeros. It is added like any other: adding +0 changes -0."""
        if self._count % 2:
            for vector in self._levels[0].vectors:
                vector += 0
        else:
            self._levels[0].clear()
        self._carry()

    def _carry(self) -> None:
        """Move sums that are complete up: a left one waits in the next level, a right one is added to it."""
        number, level = self._count, 0
        self._count += 1
        while number % 2 and level + 1 < len(self._levels):
            number //= 2
            low, high = self._levels[level], self._levels[level + 1]
            if number % 2:
                for above, below in zip(high.vectors, low.vectors, strict=True):
                    above += below
            else:
                self._levels[level], self._levels[level + 1] = high, low
            level += 1

    def pop(self) -> Flat:
        """Return the sum, and begin anew. It is good until the next `push`."""
        assert self._count == self._leaves, f"{self._count} leaves of {self._leaves}"
        self._count = 0
        return self._levels[-1]


def tree_all_reduce_(vector: np.ndarray, group: Group, chunk_bytes: int = CHUNK_BYTES) -> None:
    """Replace a vector by its sum over the ranks, added in a balanced binary tree over them; all get the same bits.

    Recursive halving, then recursive doubling (Thakur, Rabenseifner, Gropp, "Optimization of collective communication
    operations in MPICH", IJHPCA 2005): with N ranks, each sends 2 (N-1)/N of the vector, the least possible. In round i
    ranks that differ in bit i meet, so each number goes through the same tree; in each pair a + b == b + a, to the bit.

    Args:
        vector: contiguous, floating point.
        group: ranks, a power of two.
        chunk_bytes: of a message.
    """
    distances = [1 << i for i in range(group.world.bit_length() - 1)]
    if vector.nbytes <= _WHOLE_BYTES:
        for distance in distances:
            _exchange(group, group.rank ^ distance, vector.copy(), vector, add=True)
        return
    start, stop = 0, len(vector)
    scratch = max(1, chunk_bytes // vector.itemsize)
    ranges = []
    for distance in distances:
        ranges.append((start, stop))
        middle = (start + stop) // 2
        low = not group.rank & distance
        give = vector[middle:stop] if low else vector[start:middle]
        start, stop = (start, middle) if low else (middle, stop)
        _exchange(group, group.rank ^ distance, give, vector[start:stop], add=True, chunk=scratch)
    for distance, (outer_start, outer_stop) in zip(reversed(distances), reversed(ranges), strict=True):
        missing = vector[stop:outer_stop] if start == outer_start else vector[outer_start:start]
        _exchange(group, group.rank ^ distance, vector[start:stop], missing, add=False, chunk=scratch)
        start, stop = outer_start, outer_stop


@within("communicate")
def _exchange(group: Group, peer: int, give: np.ndarray, take: np.ndarray, *, add: bool, chunk: int = 1 << 30) -> None:
    """Send an array to a peer and get one from it, in chunks; what comes is added to `take`, or put there."""
    into = np.empty_like(take) if add else take
    coming: list[tuple[int, Any]] = []
    going = []
    for start in range(0, max(len(give), len(take)), chunk):
        if start < len(take):
            coming.append((start, group.receive_(into[start : start + chunk], peer, _TAG + start // chunk)))
        if start < len(give):
            going.append(group.send(give[start : start + chunk], peer, _TAG + start // chunk))
    for start, work in coming:
        work.wait()
        if add:
            take[start : start + chunk] += into[start : start + chunk]
    for work in going:
        work.wait()

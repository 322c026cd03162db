"""How the ranks of one training add up arrays: alone, or over `torch.distributed`. Runs in a task."""

from __future__ import annotations

from typing import Any

import numpy as np


class Peers:
    """Ranks that work together. All of them make the same calls in the same order.

    Attributes:
        rank: number of this one.
        world: how many there are.
    """

    rank: int = 0
    world: int = 1

    def tell(self, array: np.ndarray) -> None:
        """Give an array of rank 0 to all others, which call `hear`."""

    def hear(self, size: int) -> np.ndarray:
        """Return what rank 0 tells."""
        raise AssertionError("rank 0 hears nothing")

    def add(self, array: np.ndarray) -> np.ndarray:
        """Return the sum of the arrays of all ranks."""
        return array


class Alone(Peers):
    """One rank."""


class Gang(Peers):
    """The ranks of `gap.train`.

    Args:
        worker: of this rank.
    """

    def __init__(self, worker: Any) -> None:
        self.rank, self.world = worker.rank, worker.world

    def tell(self, array: np.ndarray) -> None:
        """See `Peers`."""
        self._broadcast(array)

    def hear(self, size: int) -> np.ndarray:
        """See `Peers`."""
        return self._broadcast(np.empty(size))

    def add(self, array: np.ndarray) -> np.ndarray:
        """See `Peers`."""
        import torch
        import torch.distributed as dist

        from sparkgap.cooperative.telling import within

        with within("communicate"):
            dist.all_reduce(torch.from_numpy(array))
        return array

    def _broadcast(self, array: np.ndarray) -> np.ndarray:
        import torch
        import torch.distributed as dist

        from sparkgap.cooperative.telling import within

        with within("communicate"):
            dist.broadcast(torch.from_numpy(array), 0)
        return array

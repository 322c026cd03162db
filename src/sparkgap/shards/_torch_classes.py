"""Subclasses of PyTorch's data sets. The only module of this package that imports a framework: import it inside functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset, IterableDataset

from sparkgap.shards.torch_feed import feed_of_worker, row_of, tensors

if TYPE_CHECKING:
    from sparkgap.shards.dataset import Shards
    from sparkgap.shards.feeds import Plan


class BatchDataset(IterableDataset):  # type: ignore[misc]  # torch is not checked
    """Batches of shards, one epoch at a time; see `Shards.to_torch`."""

    def __init__(self, shards: Shards, plan: Plan, epoch: int, start: int, prefetch: int) -> None:
        super().__init__()
        self._shards = shards
        self._plan = plan
        self._prefetch = prefetch
        # In shared memory: workers that a DataLoader keeps (persistent_workers) see a new epoch.
        self._at = torch.tensor([epoch, start], dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch, and the position in it, of the next iteration."""
        self._plan.batches(self._shards.rows, epoch, start)  # checks them
        self._at[0], self._at[1] = epoch, start

    def __len__(self) -> int:
        epoch, start = self._at.tolist()
        return len(self._plan.batches(self._shards.rows, epoch, start))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        epoch, start = self._at.tolist()
        with feed_of_worker(self._shards, self._plan, epoch, start, self._prefetch) as feed:
            yield from map(tensors, feed)


class RowDataset(Dataset):  # type: ignore[misc]  # torch is not checked
    """Single rows of shards, by number; see `Shards.to_torch`."""

    def __init__(self, shards: Shards, columns: Sequence[str]) -> None:
        self._shards = shards
        self._columns = columns

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Return rows that are read together: what a ``DataLoader`` asks for a batch."""
        block = tensors(self._shards.read(numbers, self._columns))
        return [row_of(block, i) for i in range(len(numbers))]

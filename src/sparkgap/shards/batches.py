"""Batches of an epoch and each worker's part of them: pure arithmetic over an `Epoch`.

A batch is global: step `s` takes the positions from `s * batch_size` on, whatever the number of workers, and worker `r` of
`world` takes the part from `n * r // world` to `n * (r + 1) // world` of its `n` rows. These parts nest: those of 2 workers
are made of those of 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sparkgap._errors import ConfigurationError
from sparkgap.shards.order import Epoch

Last = Literal["short", "drop", "pad"]


@dataclass(frozen=True, eq=False)
class Step:
    """One worker's part of one global batch.

    Args:
        number: of the step, from 0 at the start of these batches.
        rows: the rows to read (int64), in order; may be none.
        real: of each row whether it counts: False where it fills up a batch and is seen elsewhere in the epoch.
        total: rows of the global batch that count.
        position: how many positions of the epoch are done after this step: the `start` for going on.
    """

    number: int
    rows: np.ndarray
    real: np.ndarray
    total: int
    position: int


@dataclass(frozen=True)
class Batches:
    """The steps of an epoch, or of the rest of one, for one worker.

    Args:
        epoch: the order.
        batch_size: rows in a global batch, of all workers together.
        rank: number of this worker, from 0.
        world: number of workers.
        last: what becomes of a last batch with fewer rows: ``"short"``: it is as short as it is, so every row is seen
            exactly once, and a worker may get none; ``"drop"``: its rows are left out, see `dropped`; ``"pad"``: it is
            filled up with the first rows of the epoch, see `padded` and `Step.real`.
        start: position in the epoch to begin at, e.g. of a checkpoint; another `batch_size` and `world` than before are
            fine.

    Raises:
        ConfigurationError: one of these makes no sense.
    """

    epoch: Epoch
    batch_size: int
    rank: int = 0
    world: int = 1
    last: Last = "short"
    start: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigurationError(f"batch_size is {self.batch_size}: a number of rows from 1 on.")
        if not 0 <= self.rank < self.world:
            raise ConfigurationError(f"rank is {self.rank} of world={self.world}: ranks go from 0 to world - 1.")
        if self.last not in ("short", "drop", "pad"):
            raise ConfigurationError(f'last is {self.last!r}: "short", "drop" or "pad".')
        if not 0 <= self.start <= self.epoch.rows:
            raise ConfigurationError(f"start is {self.start}: a position from 0 to {self.epoch.rows}, the number of rows.")

    def __len__(self) -> int:
        """Return the number of steps, which is the same for all workers."""
        left = self.epoch.rows - self.start
        return left // self.batch_size if self.last == "drop" else -(-left // self.batch_size)

    @property
    def _over(self) -> int:
        return (self.epoch.rows - self.start) % self.batch_size

    @property
    def dropped(self) -> int:
        """Rows of the epoch, over all workers, that are in no step."""
        return self._over if self.last == "drop" else 0

    @property
    def padded(self) -> int:
        """Rows, over all workers, that fill up the last step and do not count."""
        return self.batch_size - self._over if self.last == "pad" and self._over else 0

    def __getitem__(self, number: int) -> Step:
        """Return a step.

        Raises:
            IndexError: there is no such step.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"step {number} of {len(self)}")
        first = self.start + number * self.batch_size
        total = min(self.batch_size, self.epoch.rows - first)
        size = self.batch_size if self.last == "pad" else total
        begin, end = self._part(size)
        rows = self.epoch.positions(first + begin, first + min(end, total))
        fill = end - max(begin, total)
        if fill > 0:
            rows = np.concatenate([rows, self._from_start(max(begin, total) - total, fill)])
        real = np.arange(begin, end) < total
        return Step(number, rows, real, total, first + total)

    def bounds(self, numbers: range) -> Iterator[tuple[int, int, int]]:
        """Yield where steps' rows begin and end in the epoch, those that fill up left out, and `Step.position`."""
        rows, start, size = self.epoch.rows, self.start, self.batch_size
        begin, end = self._part(size)
        for number in numbers:  # a few hundred nanoseconds each, as reading views takes little more
            first = start + number * size
            yield (first + begin, first + end, first + size) if first + size <= rows else self._last_bounds(number)

    def _last_bounds(self, number: int) -> tuple[int, int, int]:
        first = self.start + number * self.batch_size
        total = min(self.batch_size, self.epoch.rows - first)
        begin, end = self._part(self.batch_size if self.last == "pad" else total)
        return first + min(begin, total), first + min(end, total), first + total

    def _part(self, size: int) -> tuple[int, int]:
        return size * self.rank // self.world, size * (self.rank + 1) // self.world

    def __iter__(self) -> Iterator[Step]:
        for number in range(len(self)):
            yield self[number]

    def _from_start(self, first: int, count: int) -> np.ndarray:
        """Return rows from the start of the epoch, round and round where it has fewer."""
        rows = self.epoch.rows
        head = self.epoch.positions(0, min(rows, first + count))
        return head[np.arange(first, first + count) % rows]

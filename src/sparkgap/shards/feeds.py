"""Batches of shards: what every framework's feed is made of, and the one of NumPy."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sparkgap._errors import ConfigurationError
from sparkgap.shards.ahead import ahead
from sparkgap.shards.batches import Batches, Last
from sparkgap.shards.gather import is_fixed
from sparkgap.shards.order import BLOCK_ROWS, WINDOW_ROWS, Order, Shuffle
from sparkgap.shards.views import views
from sparkgap.tensors.spec import Block, TensorSpec

if TYPE_CHECKING:
    from sparkgap.shards.dataset import Shards

WEIGHT = "_weight"
"""Array of a padded batch: 1 for rows that count, 0 for those that fill up."""

READ_BYTES = 2 << 20
"""Several steps are read together up to so many bytes: rows of one shard are then found at once."""


@dataclass(frozen=True)
class Plan:
    """What a feed gives, for any epoch. A value that travels.

    Args:
        batch_size: rows of a batch over all workers.
        columns: names.
        shuffle, seed, window_rows, block_rows: see `Order`.
        rank, world, last: see `Batches`.
        copy: give arrays of the batch's own, and not views of the files.
    """

    batch_size: int
    columns: tuple[str, ...]
    shuffle: Shuffle = "full"
    seed: int = 0
    window_rows: int = WINDOW_ROWS
    block_rows: int = BLOCK_ROWS
    rank: int = 0
    world: int = 1
    last: Last = "short"
    copy: bool = True

    @property
    def in_place(self) -> bool:
        """Whether batches are stretches of rows as they lie, of which nothing has to be copied."""
        return not self.copy and self.shuffle is None and self.last != "pad"

    def batches(self, rows: int, epoch: int, start: int) -> Batches:
        """Return the steps of this worker in an epoch."""
        order = Order(rows, self.seed, self.shuffle, self.window_rows, self.block_rows)
        return Batches(order.epoch(epoch), self.batch_size, self.rank, self.world, self.last, start)


class NumpyFeed:
    """The batches of one epoch, as dicts of ndarrays. An iterator; leaving it early: `close()`, or use it in `with`.

    Args:
        shards: the rows.
        plan: which of them, in which order.
        epoch: its number.
        start: position in the epoch to begin at.
        prefetch: reads that may wait; 0 for no thread.
        every: this feed gives only the steps `every[0]`, `every[0] + every[1]` …
    """

    def __init__(
        self, shards: Shards, plan: Plan, epoch: int, start: int = 0, prefetch: int = 2, *, every: tuple[int, int] = (0, 1)
    ) -> None:
        if prefetch < 0:
            raise ConfigurationError(f"prefetch is {prefetch}: a number of reads from 0 on.")
        self.batches = plan.batches(shards.rows, epoch, start)
        self.position = start
        """Position in the epoch after the batch that came last: the `start` for going on there."""
        self.specs = tuple(s for s in (shards.columns[shards.names.index(n)] for n in plan.columns))
        self._numbers = range(every[0], len(self.batches), every[1])
        # Made of a reader, not of this object: a feed that is dropped is gone at once, and its thread with it.
        if plan.in_place and shards.local:
            self._iterator = views(shards, plan.columns, self.batches, self._numbers)
        else:
            together = _together(plan, self.specs)
            self._iterator = _steps(_Reader(shards, plan, self.batches), self._numbers, together, prefetch)

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self._numbers)

    def __iter__(self) -> Iterator[Block]:
        return self

    def __next__(self) -> Block:
        self.position, block = next(self._iterator)
        return block

    def __enter__(self) -> NumpyFeed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def dropped(self) -> int:
        """Rows of the epoch, over all workers, that are in no batch."""
        return self.batches.dropped

    @property
    def padded(self) -> int:
        """Rows, over all workers, that fill up the last batch."""
        return self.batches.padded

    def close(self) -> None:
        """End the thread that reads ahead."""
        self._iterator.close()


@dataclass(frozen=True)
class _Reader:
    shards: Shards
    plan: Plan
    batches: Batches

    def read(self, numbers: Sequence[int]) -> list[tuple[int, Block]]:
        """Read several steps together."""
        steps = [self.batches[number] for number in numbers]
        block = self.shards.read(np.concatenate([s.rows for s in steps]), self.plan.columns)
        found, first = [], 0
        for step in steps:
            last = first + len(step.rows)
            part = {name: array[first:last] for name, array in block.items()}
            if self.plan.last == "pad":
                part[WEIGHT] = step.real.astype(np.float32)
            found.append((step.position, part))
            first = last
        return found


def _steps(reader: _Reader, numbers: range, together: int, prefetch: int) -> Generator[tuple[int, Block], None, None]:
    groups = (numbers[i : i + together] for i in range(0, len(numbers), together))
    with closing(ahead(reader.read, groups, prefetch)) as read:
        for group in read:
            yield from group


def _together(plan: Plan, specs: Sequence[TensorSpec]) -> int:
    """Return how many steps are read together."""
    row = sum(row_bytes(spec) for spec in specs)
    part = -(-plan.batch_size // plan.world)
    return max(1, READ_BYTES // max(1, row * part))


def row_bytes(spec: TensorSpec) -> int:
    """Return the bytes of a row of a column; a guess where they differ."""
    return math.prod(d or 0 for d in spec.shape or ()) * np.dtype(spec.dtype).itemsize if is_fixed(spec) else 1024


def check_tensors(specs: Sequence[TensorSpec], framework: str) -> None:
    """Refuse columns that are no tensors of one shape (text may pass where the caller takes it out first).

    Raises:
        ConfigurationError: names the first, and what to do.
    """
    for spec in specs:
        if not is_fixed(spec):
            what = "has no numbers" if spec.dtype is None else f"is {spec.describe()}"
            raise ConfigurationError(
                f"Column `{spec.name}` {what}, which cannot be a batch tensor of {framework}. Leave it out with columns=, or "
                "use to_numpy(), which gives such columns as arrays of objects."
            )

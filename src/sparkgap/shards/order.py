"""Sample order: a pure function of (rows, seed, epoch), the same for any number of workers. NumPy only.

Random numbers are raw output of Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011),
keyed by seed and epoch, with a range of its counter for each window. NumPy promises the output of its bit generators for
all versions, which it does not of `Generator.permutation`; so permutations are made here, by sorting: rows get a random
64-bit number each, and a stable sort of those is the order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from sparkgap._errors import ConfigurationError

Shuffle = Literal["full", "window"] | None

WINDOW_ROWS = 1 << 18
BLOCK_ROWS = 1 << 10
_MOST_SEED = 2**64
_BLOCKS, _ROWS = 0, 1  # what a range of the counter is for


@dataclass(frozen=True)
class Order:
    """The order in which rows are visited, for every epoch.

    Args:
        rows: how many there are.
        seed: from 0 to 2**64 - 1.
        shuffle: ``"full"``: any row can come anywhere; takes 4 bytes a row (8 from 2**32 rows on), and 20 (24) while the
            order of an epoch is made. ``"window"``: blocks of `block_rows` rows that follow each other are shuffled, and
            then the rows within each `window_rows` of what that gives; takes 24 bytes a row of one window and 24 bytes
            a block, and reads from few places at a time. None: as they lie.
        window_rows: rows in a window.
        block_rows: rows in a block; not more than a window has.

    Raises:
        ConfigurationError: one of these makes no sense.
    """

    rows: int
    seed: int = 0
    shuffle: Shuffle = "full"
    window_rows: int = WINDOW_ROWS
    block_rows: int = BLOCK_ROWS

    def __post_init__(self) -> None:
        if self.rows < 0:
            raise ConfigurationError(f"rows is {self.rows}: a number of rows from 0 on.")
        if not 0 <= self.seed < _MOST_SEED:
            raise ConfigurationError(f"seed is {self.seed}: a whole number from 0 to 2**64 - 1.")
        if self.shuffle not in ("full", "window", None):
            raise ConfigurationError(f'shuffle is {self.shuffle!r}: "full", "window" or None.')
        if self.window_rows < 1 or self.block_rows < 1:
            raise ConfigurationError(f"window_rows={self.window_rows}, block_rows={self.block_rows}: both from 1 on.")

    def epoch(self, number: int) -> Epoch:
        """Return the order of one epoch; they are numbered from 0.

        Raises:
            ConfigurationError: the number is below 0 or above 2**64 - 1.
        """
        if not 0 <= number < _MOST_SEED:
            raise ConfigurationError(f"epoch is {number}: a whole number from 0 to 2**64 - 1.")
        return Epoch(self, number)


@dataclass
class Epoch:
    """The order of one epoch: which row comes at which position. Not to be used by two threads at a time.

    Args:
        order: whose epoch it is.
        number: of the epoch.
    """

    order: Order
    number: int
    _made: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    @property
    def rows(self) -> int:
        """Number of rows, which is that of positions."""
        return self.order.rows

    def positions(self, start: int, stop: int) -> np.ndarray:
        """Return the rows (int64) at the positions from `start` to `stop` - 1, cut to those that there are."""
        start, stop = max(0, start), min(stop, self.rows)
        if start >= stop:
            return np.empty(0, np.int64)
        if self.order.shuffle is None:
            return np.arange(start, stop, dtype=np.int64)
        if self.order.shuffle == "full":
            return self._full()[start:stop].astype(np.int64)
        size = self.order.window_rows
        parts = []
        for number in range(start // size, (stop - 1) // size + 1):
            first = number * size
            parts.append(self._window(number)[max(start - first, 0) : stop - first])
        return np.concatenate(parts)

    def _full(self) -> np.ndarray:
        if not self._made:
            self._made[0] = _permutation(self._key, 0, _ROWS, self.rows).astype(_index_type(self.rows))
        return self._made[0]

    def _window(self, number: int) -> np.ndarray:
        """Return the rows of one window. Only the window that was asked for last is kept."""
        if number not in self._made:
            size, rows = self.order.window_rows, self.rows
            first = number * size
            made = self._behind_blocks(np.arange(first, min(first + size, rows)))
            for other in [n for n in self._made if n >= 0]:
                del self._made[other]
            self._made[number] = made[_permutation(self._key, number, _ROWS, len(made))]
        return self._made[number]

    def _behind_blocks(self, places: np.ndarray) -> np.ndarray:
        """Return the rows at places of the sequence of shuffled blocks. All blocks but the last one are full."""
        size = self.order.block_rows
        blocks = self._blocks()
        short = int(np.flatnonzero(blocks == len(blocks) - 1)[0])  # where the last block of rows has come to
        missing = len(blocks) * size - self.rows
        moved: np.ndarray = places + missing * (places >= (short + 1) * size - missing)
        rows: np.ndarray = blocks[moved // size] * size + moved % size
        return rows

    def _blocks(self) -> np.ndarray:
        if -1 not in self._made:
            self._made[-1] = _permutation(self._key, 0, _BLOCKS, -(-self.rows // self.order.block_rows))
        return self._made[-1]

    @property
    def _key(self) -> int:
        return self.order.seed | self.number << 64


def _permutation(key: int, number: int, purpose: int, size: int) -> np.ndarray:
    """Return a permutation of `size` numbers (int64), from a range of the counter that is its own."""
    bits = np.random.Philox(key=key, counter=number << 64 | purpose << 192)
    found: np.ndarray = np.argsort(bits.random_raw(size), kind="stable")
    return found


def _index_type(rows: int) -> type[np.unsignedinteger]:
    return np.uint32 if rows <= 1 << 32 else np.uint64

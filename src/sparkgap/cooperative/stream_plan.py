"""The arithmetic of a streamed pass: parts of batches, sizes of pieces, and how the ends of the ranks are made equal. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PIECE_BYTES = 256 << 10
"""Rows travel in pieces of about so many bytes; a row that is larger travels alone."""
WINDOW_ROWS = 1 << 14
"""Rows of each rank among which the next batch is drawn, …"""
ROOM_BYTES = 64 << 20
"""… or as many as have about so many bytes, where that is less."""
AHEAD = 8
"""Batches that a rank may have ready besides the window."""


def part_of(rows: int, rank: int, world: int) -> int:
    """Return how many rows of a batch of all ranks are those of one; the parts are those of `Batches`."""
    return rows * (rank + 1) // world - rows * rank // world


def piece_rows(rows: int, nbytes: int, world: int) -> int:
    """Return how many rows of a record batch travel together: each rank gets some of it, and a piece is not too large."""
    fitting = PIECE_BYTES * rows // max(1, nbytes)
    return max(1, min(-(-rows // world), fitting))


@dataclass(frozen=True)
class Room:
    """How many rows a rank keeps. A rank that is not ready has room, so it gets rows: no rank waits for ever.

    Args:
        part: rows of this rank in a whole batch.
        window: rows that are shuffled, at most; 0 for no shuffle.
    """

    part: int
    window: int

    def least(self, row_bytes: float) -> int:
        """Return how many rows must stay behind when a batch is drawn, for rows of so many bytes."""
        return min(self.window, int(ROOM_BYTES / max(1.0, row_bytes)))

    def most(self, row_bytes: float) -> int:
        """Return at how many rows no more are let in; those that are on their way come nevertheless."""
        row = max(1.0, row_bytes)
        batches = max(1, min(AHEAD, int(ROOM_BYTES / (4 * row * max(1, self.part)))))
        return self.least(row_bytes) + max(1, self.part) * batches

    def steps(self, rows: int, row_bytes: float) -> int:
        """Return how many batches can be drawn now."""
        return max(0, rows - self.least(row_bytes)) // self.part if self.part else AHEAD


def tail(left: int, batch_size: int, *, drop: bool) -> list[int]:
    """Return the rows of each batch that is made of the last rows of all ranks."""
    whole, over = divmod(left, batch_size)
    return [batch_size] * whole + ([over] if over and not drop else [])


def wanted(steps: Sequence[int], world: int) -> list[int]:
    """Return how many rows each rank needs for steps of so many rows."""
    return [sum(part_of(rows, rank, world) for rows in steps) for rank in range(world)]


def transfers(have: Sequence[int], want: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return which rank gives how many rows to which, so that each has what it needs: (giver, taker, rows)."""
    found = []
    givers = [[rank, h - w] for rank, (h, w) in enumerate(zip(have, want, strict=True)) if h > w]
    for taker, (h, w) in enumerate(zip(have, want, strict=True)):
        missing = w - h
        while missing > 0:
            giver = givers[0]
            rows = min(missing, giver[1])
            found.append((giver[0], taker, rows))
            missing -= rows
            giver[1] -= rows
            if not giver[1]:
                givers.pop(0)
    return found

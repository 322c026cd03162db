"""Batches in the order of the files, as views of them: nothing is copied, and little is done for each."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from sparkgap.tensors.spec import Block

if TYPE_CHECKING:
    import numpy as np

    from sparkgap.shards.batches import Batches
    from sparkgap.shards.dataset import Shards


def views(
    shards: Shards, columns: Sequence[str], batches: Batches, numbers: range
) -> Generator[tuple[int, Block], None, None]:
    """Yield the position after each step, and its rows: read-only views where they lie in one record batch, else copies.

    Args:
        shards: files of this machine.
        columns: names.
        batches: in the order of the files, and not padded.
        numbers: of the steps.
    """
    begin = end = 0
    arrays: list[tuple[str, np.ndarray]] = []
    for first, last, position in batches.bounds(numbers):
        if begin <= first and last <= end:
            yield position, {name: array[first - begin : last - begin] for name, array in arrays}
            continue
        yield position, shards.slice(first, last, columns)
        begin, end = shards.record_batch(last) if last < shards.rows else (0, 0)
        arrays = list(shards.slice(begin, end, columns).items())

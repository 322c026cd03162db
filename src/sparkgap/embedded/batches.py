"""True batch sizes: rows are carried across the chunks that a source or Spark gives. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from sparkgap.data.source import Chunk

AUTO_BYTES = 8 << 20
AUTO_RANGE = (32, 8192)


@dataclass(frozen=True)
class Batch:
    """Rows that the model gets in one call, and where each of them comes from.

    Args:
        data: the rows.
        spans: pieces of chunks in row order: (chunk, first row in the chunk, number of rows).
    """

    data: pa.RecordBatch
    spans: tuple[tuple[Chunk, int, int], ...]

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return int(self.data.num_rows)

    def locate(self, row: int) -> str:
        """Name a row of the batch by its origin: ``row 12 of partition 3`` or ``row 12 of file.parquet``."""
        for chunk, first, count in self.spans:
            if row < count:
                return f"row {chunk.row_number(first + row)} of {chunk.origin}"
            row -= count
        raise IndexError(row)


def rebatch(chunks: Iterable[Chunk], size: int) -> Iterator[Batch]:
    """Regroup chunks into batches of exactly `size` rows; only the last one may be shorter.

    A batch within one chunk is a zero-copy slice; one that spans chunks is copied together.
    """
    waiting: list[tuple[Chunk, int, int]] = []
    have = 0
    for chunk in chunks:
        first, left = 0, chunk.batch.num_rows
        while left:
            take = min(left, size - have)
            waiting.append((chunk, first, take))
            first, left, have = first + take, left - take, have + take
            if have == size:
                yield _join(waiting)
                waiting, have = [], 0
    if waiting:
        yield _join(waiting)


def _join(spans: list[tuple[Chunk, int, int]]) -> Batch:
    parts = [chunk.batch.slice(first, count) for chunk, first, count in spans]
    if len(parts) == 1:
        return Batch(parts[0], tuple(spans))
    columns = [pa.concat_arrays([p.column(i) for p in parts]) for i in range(parts[0].num_columns)]
    data = pa.RecordBatch.from_arrays(columns, schema=parts[0].schema)
    # The joined rows are a copy: the spans keep the numbering of the chunks, not their memory.
    return Batch(data, tuple((_numbering(c), first, count) for c, first, count in spans))


def _numbering(chunk: Chunk) -> Chunk:
    return Chunk(_EMPTY, chunk.origin, chunk.first_row, chunk.rows)


_EMPTY = pa.RecordBatch.from_arrays([], names=[])


def auto_size(row_bytes: int) -> int:
    """Pick a batch size, a power of two, by the bytes of one row of input tensors."""
    smallest, largest = AUTO_RANGE
    rows = max(1, AUTO_BYTES // max(1, row_bytes))
    return max(smallest, min(largest, 1 << (rows.bit_length() - 1)))

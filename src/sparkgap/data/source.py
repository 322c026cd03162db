"""The `Source` seam: data that executors' Python reads by itself, while Spark only schedules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow as pa

from sparkgap.data.splits import FilePart, Split

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["Chunk", "FilePart", "Source", "Split"]


@dataclass(frozen=True)
class Chunk:
    """Some rows, and where each of them comes from, so that an error can name the row.

    Args:
        batch: the rows.
        origin: path or URI of the file.
        first_row: number, in that file, of row 0 of the batch; the next rows follow it …
        rows: … or the row number of every row, where a filter took some out.
    """

    batch: pa.RecordBatch
    origin: str
    first_row: int
    rows: np.ndarray | None = None

    def row_number(self, i: int) -> int:
        """Return the number, in its file, of row `i` of the batch."""
        return self.first_row + i if self.rows is None else int(self.rows[i])


class Source(ABC):
    """Data outside Spark. The seam for new kinds of files (entry-point group `sparkgap.sources`).

    A source is a frozen, picklable value. The driver makes it, asks for `schema` and `splits`, and sends it and
    the splits to the tasks, which call `read`. What only the driver needs (lists of files) is left out of the pickle.
    """

    name: ClassVar[str]
    """What the files are, in the plural, for messages."""

    default_keep: ClassVar[tuple[str, ...] | None] = None
    """Columns that stay beside the outputs where the user names none; None for all."""

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """The columns that reading gives, in order."""

    @abstractmethod
    def splits(self, *, tasks: int, max_bytes: int = 128 << 20) -> tuple[Split, ...]:
        """Divide the data: one split is the work of one task. Driver side; looks at files, starts no job.

        Args:
            tasks: how many tasks can run at a time; there are at least so many splits where the data allow it.
            max_bytes: aim for at most so many bytes (as stored) in a split.

        Raises:
            DataError: a file cannot be read or does not fit the others; says which.
            FileChangedError: a file is not what it was when it was listed.
        """

    @abstractmethod
    def read(self, split: Split, *, columns: Sequence[str], rows: int) -> Iterator[Chunk]:
        """Read one split: these columns in that order, in batches of at most `rows` rows.

        Runs on executors, in one thread at a time; the thread may change between two items.

        Raises:
            DataError: a file cannot be read; says which, and on which host.
            FileChangedError: a file is gone or is not what it was when the splits were made.
        """

    @abstractmethod
    def to_df(self, spark: SparkSession) -> DataFrame:
        """Return the same rows read by Spark itself."""

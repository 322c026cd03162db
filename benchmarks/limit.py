"""The limit: the same work by plain processes without Spark, and the pieces that contenders by hand are made of."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import CORES, LIMIT, Contender

Score = Callable[[Any], Iterable[pa.RecordBatch]]


class Limit:
    """What no library can beat: plain warm processes, one framework thread each, no Spark.

    Args:
        opener: called once in each process, loads the model and returns what scores one job.
        jobs: pieces of the work, taken one by one by whichever process is free.
    """

    def __init__(self, opener: Callable[[], Score], jobs: Sequence[Any]) -> None:
        self._jobs = jobs
        self._pool = multiprocessing.get_context("spawn").Pool(CORES, _open, (opener,))

    def contender(self) -> Contender:
        """Return it as a contender."""
        return Contender(LIMIT, self._run, self._answer)

    def _run(self) -> None:
        for _ in self._pool.imap_unordered(_count, self._jobs):
            pass

    def _answer(self) -> pa.Table:
        return pa.Table.from_batches([b for part in self._pool.imap(_batches, self._jobs) for b in part])

    def close(self) -> None:
        """End the processes."""
        self._pool.close()
        self._pool.join()


_score: Score


def _open(opener: Callable[[], Score]) -> None:
    global _score
    one_thread()
    _score = opener()


def _count(job: Any) -> int:
    return sum(batch.num_rows for batch in _score(job))


def _batches(job: Any) -> list[pa.RecordBatch]:
    return list(_score(job))


def one_thread() -> None:
    """Give Arrow and torch one thread in this process."""
    import torch

    torch.set_num_threads(1)
    pa.set_cpu_count(1)


def row_groups(folder: Path) -> list[tuple[str, int]]:
    """Return all (file, number of the row group) of a folder."""
    files = sorted(str(p) for p in folder.glob("*.parquet"))
    return [(f, n) for f in files for n in range(pq.ParquetFile(f).num_row_groups)]


def read_group(job: tuple[str, int], rows: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Read one row group in batches of `rows` rows."""
    # A small buffer in place of the whole row group: measured to be the faster way on local files.
    with pq.ParquetFile(job[0], pre_buffer=False, buffer_size=256 << 10) as file:
        yield from file.iter_batches(rows, row_groups=[job[1]], columns=list(columns), use_threads=False)


def lists(values: np.ndarray) -> pa.Array:
    """Return a matrix as an Arrow list column, without copying."""
    rows, width = values.shape
    offsets = np.arange(0, (rows + 1) * width, width, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1)))

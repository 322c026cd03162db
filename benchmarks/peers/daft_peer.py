"""Daft: a class with a batch method, local files, streamed results."""

from __future__ import annotations

import sys

import daft
import pyarrow as pa
from daft import DataType, Series

from benchmarks.dense import BATCH, WIDTH, scorer
from benchmarks.limit import lists
from benchmarks.peers.serve import serve


# Measured: the fastest form here. With max_concurrency or use_process=True it starts processes for every query (5 s), and
# with larger batches it is slower.
@daft.cls(use_process=False)
class Network:
    """The network, loaded once."""

    def __init__(self) -> None:
        self._score = scorer()

    @daft.method.batch(return_dtype=DataType.list(DataType.float32()), batch_size=BATCH)
    def score(self, x: Series) -> pa.Array:
        """Score one batch."""
        column = x.to_arrow()
        return lists(self._score(column.flatten().to_numpy().reshape(len(column), WIDTH)))


def frame(folder: str) -> daft.DataFrame:
    """Return the lazy result."""
    table = daft.read_parquet(f"{folder}/*.parquet")
    return table.select(table["key"], Network().score(table["x"]).alias("y"))


def main() -> None:
    """Serve rounds over one folder."""
    lazy = frame(sys.argv[1])

    def run() -> None:
        for _ in lazy.to_arrow_iter():
            pass

    serve(run, lazy.to_arrow)


if __name__ == "__main__":
    main()

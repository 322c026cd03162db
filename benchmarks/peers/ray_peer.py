"""Ray Data: an actor class over Arrow batches, without copying."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pyarrow as pa
import ray
import ray.data

from benchmarks.common import CORES
from benchmarks.dense import BATCH, WIDTH, scorer
from benchmarks.limit import lists
from benchmarks.peers.serve import serve


class Network:
    """The network, loaded once in each actor."""

    def __init__(self) -> None:
        self._score = scorer()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Score one batch."""
        column = table["x"].combine_chunks()
        x = column.flatten().to_numpy().reshape(len(column), WIDTH)
        return pa.table({"key": table["key"], "y": lists(self._score(x))})


def main() -> None:
    """Serve rounds over one folder."""
    # The actors hold one CPU each for as long as they live, so reading needs as many more. All of Ray's processes run on
    # the cores that every contender has, whatever number is said here.
    ray.init(num_cpus=2 * CORES, include_dashboard=False, logging_level=logging.ERROR, object_store_memory=4 << 30)
    ray.data.DataContext.get_current().enable_progress_bars = False
    files = sorted(str(p) for p in Path(sys.argv[1]).glob("*.parquet"))

    def scored() -> ray.data.Dataset:
        table = ray.data.read_parquet(files, columns=["key", "x"])
        actors = ray.data.ActorPoolStrategy(size=CORES)
        return table.map_batches(
            Network, batch_size=BATCH, batch_format="pyarrow", zero_copy_batch=True, compute=actors, num_cpus=1
        )

    def run() -> None:
        for _ in scored().iter_internal_ref_bundles():
            pass

    def answer() -> pa.Table:
        return pa.concat_tables(ray.get(scored().to_arrow_refs()))

    serve(run, answer)


if __name__ == "__main__":
    main()

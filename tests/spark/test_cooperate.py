"""`gap.cooperate` on real Spark: partitions into workers that talk to each other, and partitions out."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

import sparkgap as gap
from sparkgap import _spark
from sparkgap.monitor import driver

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

GROWTH_BYTES = 120 << 20
"""Of Spark's worker while 100 MB go through it, there and back: a few batches of 10 MB, and what the allocators keep."""


def tagged(worker: Any, rows: Any) -> Iterator[Any]:
    for batch in rows:
        yield {"id": batch["id"], "rank": [worker.rank] * batch.num_rows}


def test_any_partitions_in_and_n_out(spark: SparkSession):
    from pyspark.sql import functions as F

    made = gap.cooperate(spark.range(0, 1000, 1, 5), tagged, "id long, rank int", workers=2, backend=None)
    found = made.withColumn("p", F.spark_partition_id()).toArrow()
    assert sorted(found["id"].to_pylist()) == list(range(1000))
    assert found["p"] == found["rank"].cast(pa.int32())
    assert 400 < sum(found["rank"].to_pylist()) < 600
    assert made.limit(1).count() == 1  # looks at one partition, which a barrier stage does not allow
    assert made.union(made.select("id", "rank")).count() == 2000


def test_equal_keys_meet_and_partitions_stay_where_they_are(spark: SparkSession):
    df = spark.range(0, 100, 1, 3).selectExpr("id", "id % 7 AS `a key`", "0 AS other")
    made = gap.cooperate(df, tagged, "id long, rank int", workers=2, keys="a key", columns=["id"], backend=None)
    rank_of: dict[int, set[int]] = {}
    for row in made.collect():
        rank_of.setdefault(row.id % 7, set()).add(row.rank)
    assert [len(ranks) for ranks in rank_of.values()] == [1] * 7
    assert set.union(*rank_of.values()) == {0, 1}
    stays = gap.cooperate(
        spark.range(0, 100, 1, 2), tagged, "id long, rank int", workers=2, repartition=False, detach=False, backend=None
    )
    assert [row.rank for row in sorted(stays.collect(), key=lambda r: r.id)] == [0] * 50 + [1] * 50
    with pytest.raises(Exception, match="(?i)barrier"):
        stays.limit(1).collect()


def test_a_running_sum_over_all_ranks_of_columns_with_any_name(spark: SparkSession):
    from pyspark.sql import types as T

    def running(worker: Any, blocks: Any) -> Iterator[Any]:
        got = list(blocks)
        x = np.concatenate([b["x.y"] for b in got]) if got else np.empty((0, 2))
        before = sum(worker.gather(float(x.sum()))[: worker.rank])
        sums = before + x.sum(1).cumsum()
        yield {"a`sum": sums, "v": np.repeat(sums[:, None], 3, 1), "at": np.full(len(sums), np.datetime64("2020-01-01", "us"))}

    schema = T.StructType(
        [
            T.StructField("v", T.ArrayType(T.FloatType())),
            T.StructField("a`sum", T.DoubleType(), False),
            T.StructField("at", T.TimestampType()),
        ]
    )
    df = spark.range(0, 10, 1, 2).selectExpr("array(double(id), 0d) AS `x.y`")
    made = gap.cooperate(df, running, schema, workers=2, repartition=False, as_blocks=True, backend=None)
    assert made.schema.names == schema.names
    assert made.toArrow()["a`sum"].to_pylist() == np.arange(10.0).cumsum().tolist()
    assert made.first().v == [0.0] * 3


def test_tensors_are_reduced_by_torch(spark: SparkSession):
    def reduced(worker: Any, rows: Any) -> Iterator[Any]:
        import torch

        total = torch.tensor([float(sum(sum(b["id"].to_pylist()) for b in rows))])
        torch.distributed.all_reduce(total)
        gap.report(total=float(total), step=worker.rank)
        yield {
            "rank": [worker.rank],
            "total": total,
            "mean": [worker.average(worker.rank)],
            "world": [os.environ["WORLD_SIZE"]],
        }

    store = driver.monitor().store
    before = set(store.history.runs())
    made = gap.cooperate(spark.range(100), reduced, "rank int, total float, mean double, world string", workers=2)
    assert [tuple(row) for row in made.collect()] == [(0, 4950.0, 0.5, "2"), (1, 4950.0, 0.5, "2")]
    (run,) = set(store.history.runs()) - before
    with store.reading(run) as state:
        assert state is not None
        assert (state.kind, state.name) == ("cooperate", "reduced")
        assert [p for s in state.series.values() if s.name == "total" for p in s.points]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_many_rows_go_through_little_memory(spark: SparkSession):
    def through(worker: Any, rows: Any) -> Iterator[Any]:
        import psutil

        task = psutil.Process(os.getppid()).parent()  # above the process that forks this one
        assert task is not None
        began, most = None, 0
        for batch in rows:
            most = task.memory_info().rss
            if began is None:
                began = most
                Path(f"/proc/{task.pid}/clear_refs").write_text("5")  # the peak of what it did before this does not count
            yield {"size": pa.compute.binary_length(batch["s"]), "s": batch["s"], "growth": [0] * batch.num_rows}
        peak = int(Path(f"/proc/{task.pid}/status").read_text().partition("VmHWM:")[2].split()[0]) << 10
        yield {"size": [0], "s": [""], "growth": [peak - (began or 0)]}

    df = spark.range(200_000).selectExpr("repeat(cast(id % 10 AS string), 1000) AS s")
    made = gap.cooperate(df, through, "size int, s string, growth long", workers=2, backend=None)
    row = made.selectExpr("sum(size) AS size", "sum(length(s)) AS length", "max(growth) AS growth").first()
    assert (row.size, row.length) == (200_000_000, 200_000_000)
    assert row.growth < GROWTH_BYTES


def test_the_error_is_that_of_the_rank_which_failed_first_and_is_not_tried_again(spark: SparkSession, tmp_path: Path):
    log = str(tmp_path / "begun")

    def fails(worker: Any, rows: Any) -> Iterator[Any]:
        worker.barrier()
        if worker.rank == 1:
            with open(log, "a") as file:
                file.write("x")
            raise LookupError("of rank one")
        worker.gather(0)  # waits for one that does not come
        yield {"x": [1]}

    with pytest.raises(Exception, match=r"Rank 1 of 2 raised LookupError: of rank one") as caught:
        gap.cooperate(spark.range(4), fails, "x int", workers=2, backend=None).collect()
    assert 'raise LookupError("of rank one")' in str(caught.value)
    assert Path(log).read_text() == "x"


def test_what_cannot_be_is_told_at_once(spark: SparkSession, kind: str):
    df = spark.range(4)
    with pytest.raises(gap.SessionError, match=r"99 workers were asked for, and 2 can run at the same time"):
        gap.cooperate(df, tagged, "id long", workers=99)
    with pytest.raises(gap.ConfigurationError, match="no column `nix`; it has id"):
        gap.cooperate(df, tagged, "id long", workers=2, keys="nix")
    with pytest.raises(gap.ConfigurationError, match="Leave one of them away"):
        gap.cooperate(df, tagged, "id long", workers=2, keys="id", repartition=False)
    lock = threading.Lock()
    with pytest.raises(gap.ConfigurationError, match="cannot be sent"):
        gap.cooperate(df, lambda worker, rows: [lock], "id long", workers=2)


@pytest.mark.local
def test_a_job_that_is_cancelled_leaves_nothing_running(spark: SparkSession, tmp_path: Path):
    import psutil

    folder = str(tmp_path)

    def stays(worker: Any, rows: Any) -> Iterator[Any]:
        worker.barrier()
        Path(folder, f"{worker.rank}.new").write_text(str(os.getpid()))
        Path(folder, f"{worker.rank}.new").rename(Path(folder, str(worker.rank)))
        threading.Event().wait()
        yield {}

    def collect() -> None:
        _spark.tag_jobs(spark, "sparkgap-test-cooperate")
        with pytest.raises(Exception, match="(?i)cancel"):
            made.collect()

    made = gap.cooperate(spark.range(4), stays, "x int", workers=2, backend=None)
    thread = threading.Thread(target=collect)
    thread.start()
    wait(lambda: all((tmp_path / str(rank)).exists() for rank in range(2)))
    pids = [int((tmp_path / str(rank)).read_text()) for rank in range(2)]
    _spark.cancel_jobs(spark, "sparkgap-test-cooperate")
    thread.join(60)
    wait(lambda: not any(psutil.pid_exists(pid) for pid in pids))


def wait(done: Any, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(0.05)

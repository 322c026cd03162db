"""Shards written by Spark: each row once, whatever the partitions; writes that fail or are cut off leave nothing to read."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

import sparkgap as gap
from sparkgap.shards.folder import Folder

EXPRESSIONS = (
    "id",
    "array(float(id), float(id) / 2) AS x",
    "sequence(0, int(id % 3)) AS tokens",
    "concat('n', id) AS `the name.s`",
    "id % 2 = 0 AS even",
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "train"


def uneven(spark, rows: int = 100, partitions: int = 5):
    """Partitions of very different sizes, some of them empty."""
    df = spark.range(0, rows, 1, 1).selectExpr("id", "int(sqrt(id) / 4) AS p")
    return df.repartition(partitions, "p").selectExpr(*EXPRESSIONS)


def files(place: Path) -> set[str]:
    return {str(f.relative_to(place)) for f in place.rglob("*") if f.is_file()}


def test_every_row_is_there_once(spark, place):
    shards = gap.write_shards(uneven(spark), place, rows_per_shard=7)
    assert shards.rows == len(shards) == 100
    assert max(s.rows for s in shards.index.shards) == 7
    assert files(place) == {"index.json", *(s.file for s in shards.index.shards)}
    shards.verify()
    every = gap.open_shards(place).read(np.arange(100))
    assert sorted(every["id"].tolist()) == list(range(100))
    assert (every["x"] == np.stack([every["id"], every["id"] / 2], axis=1)).all()
    assert [len(t) for t in every["tokens"]] == [i % 3 + 1 for i in every["id"]]
    assert list(every["the name.s"]) == [f"n{i}" for i in every["id"]]
    assert every["even"].tolist() == [i % 2 == 0 for i in every["id"]]


@pytest.mark.parametrize("world", [1, 3])
def test_a_feed_gives_each_row_once_an_epoch(spark, place, world):
    shards = gap.write_shards(uneven(spark), place, columns=["id", "x"])
    for epoch in (0, 1):
        feeds = [shards.to_numpy(8, seed=5, epoch=epoch, rank=r, world=world) for r in range(world)]
        seen = np.concatenate([batch["id"] for feed in feeds for batch in feed])
        assert sorted(seen.tolist()) == list(range(100))


def test_spark_reads_them_again(spark, place):
    df = uneven(spark)
    back = gap.write_shards(df, place, rows_per_shard=30).to_df(spark)
    assert back.dtypes == df.dtypes
    assert sorted(back.collect()) == sorted(df.collect())


def test_no_rows_at_all(spark, place):
    shards = gap.write_shards(uneven(spark).where("id < 0"), place)
    assert shards.rows == 0
    assert shards.names == ("id", "x", "tokens", "the name.s", "even")
    assert gap.open_shards(place).read([])["id"].shape == (0,)
    assert list(shards.to_numpy(4)) == []
    assert shards.to_df(spark).count() == 0


def test_vectors_become_tensors(spark, place):
    from pyspark.ml.linalg import Vectors

    rows = [(i, Vectors.sparse(3, {i: 2.0}) if i % 2 else Vectors.dense([1.0, 0.0, i])) for i in range(3)]
    shards = gap.write_shards(_vectors(spark, rows), place)
    assert shards.columns[1].describe() == "float64 (batch, 3)"
    found = shards.read(np.arange(3))
    assert found["v"][np.argsort(found["id"])].tolist() == [[1, 0, 0], [0, 2, 0], [1, 0, 2]]


def _vectors(spark, rows):
    from pyspark.ml.linalg import VectorUDT
    from pyspark.sql.types import IntegerType, StructField, StructType

    return spark.createDataFrame(rows, StructType([StructField("id", IntegerType()), StructField("v", VectorUDT())]))


def test_nulls_are_an_error_that_names_the_row_and_leaves_no_shards(spark, place):
    df = spark.range(0, 6, 1, 2).selectExpr("id", "IF(id = 4, null, float(id)) AS x", "IF(id = 1, null, 'a') AS s")
    with pytest.raises(gap.DataError, match=r"Column `x` of type float is null, in row 1 of partition 1\. Fill"):
        gap.write_shards(df, place)
    with pytest.raises(gap.DataError, match=r"There are no shards at .*train"):
        gap.open_shards(place)
    shards = gap.write_shards(df, place, nulls="skip")
    assert (shards.rows, shards.skipped) == (5, 1)
    assert gap.open_shards(place).skipped == 1
    shards = gap.write_shards(df, place, nulls="nan", overwrite=True)
    found = shards.read(np.arange(6))
    assert np.isnan(found["x"]).tolist() == [i == 4 for i in found["id"]]
    assert [s is None for s in found["s"]] == [i == 1 for i in found["id"]]


def test_what_a_write_that_was_cut_off_left_is_removed(spark, place):
    folder = Folder.of(place, None)
    folder.create("data-" + "a" * 32)
    (place / ("data-" + "a" * 32) / "00000-00000-0.arrow").write_bytes(b"half a sha")
    (place / "mine.txt").write_text("stays")
    shards = gap.write_shards(uneven(spark), place)
    assert files(place) == {"index.json", "mine.txt", *(s.file for s in shards.index.shards)}


def test_shards_that_are_there_are_kept_replaced_or_used_again(spark, place):
    first = gap.write_shards(spark.range(10), place, key="v1")
    with pytest.raises(gap.ConfigurationError, match=r"There are shards of 10 rows .*overwrite=True"):
        gap.write_shards(spark.range(5), place)
    again = gap.write_shards(spark.range(10), place, key="v1", overwrite="reuse")
    assert again.index == first.index
    other = gap.write_shards(spark.range(5), place, key="v2", overwrite="reuse")
    assert gap.open_shards(place).rows == other.rows == 5
    options = gap.write_shards(spark.range(5), place, key="v2", overwrite="reuse", rows_per_shard=1)
    assert options.index != other.index
    assert files(place) == {"index.json", *(s.file for s in options.index.shards)}
    (place / options.index.shards[0].file).unlink()
    assert gap.write_shards(spark.range(5), place, key="v2", overwrite="reuse", rows_per_shard=1).rows == 5


def test_reuse_knows_parquet_files_by_their_state(spark, place, tmp_path, kind):
    source = str(tmp_path / "table")
    spark.range(0, 20, 1, 2).selectExpr("id", "float(id) AS x").write.parquet(source)

    def write(where: int = 0):
        if kind == "connect":  # whose plans cannot be looked at
            data = gap.files(source, where=[("id", ">=", where)])
        else:
            data = spark.read.parquet(source).where(f"id >= {where}")
        return gap.write_shards(data, place, overwrite="reuse")

    first = write()
    assert write().index == first.index
    assert write(3).rows == 17
    spark.range(20, 30).selectExpr("id", "float(id) AS x").write.mode("append").parquet(source)
    assert write(3).rows == 27
    with pytest.raises(gap.ConfigurationError, match='overwrite="reuse" cannot know .*key='):
        gap.write_shards(spark.read.parquet(source).groupBy("id").count(), place, overwrite="reuse")


def dying_once(marker: str):
    """Return a function of batches that kills its process after half of the rows of a partition, the first time."""

    def body(batches):  # not of the module: executors do not have that
        for number, batch in enumerate(batches):
            if number == 1:
                try:
                    os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    pass
                else:
                    os.kill(os.getpid(), signal.SIGKILL)
            yield batch

    return body


def test_a_killed_task_is_tried_again_and_leaves_no_row_twice(spark, place, tmp_path, kind):
    if kind != "cluster":
        pytest.skip("a task is tried once only on local[2]")
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "10")
    try:
        df = spark.range(0, 40, 1, 2).mapInArrow(dying_once(str(tmp_path / "died")), "id bigint")
        shards = gap.write_shards(df, place, rows_per_shard=5)
    finally:
        spark.conf.unset("spark.sql.execution.arrow.maxRecordsPerBatch")
    assert (tmp_path / "died").exists()
    assert sorted(shards.read(np.arange(40))["id"].tolist()) == list(range(40))
    assert files(place) == {"index.json", *(s.file for s in shards.index.shards)}


def test_columns_that_cannot_be(spark, place):
    with pytest.raises(gap.ConfigurationError, match=r"columns is \['y'\].*id"):
        gap.write_shards(spark.range(3), place, columns=["y"])
    with pytest.raises(gap.ConfigurationError, match="shard_bytes is 'much'"):
        gap.write_shards(spark.range(3), place, shard_bytes="much")
    assert not place.exists()
